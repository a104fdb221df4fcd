"""Classes and boxes in the original image, whatever the network was shown."""

import numpy as np
import pytest
import torch
from mmcdnv2_runtime import Classifier, Detector, ImageError, ModelError
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from PIL import Image

FIT = dict(op='resize', mode='fit', long=96, short=64)
FIT.update(interpolation='bilinear', antialias=False)
PAD = dict(op='pad', size=[64, 96], value=[114, 114, 114])
BLUE = np.zeros((32, 48, 3), np.uint8)
BLUE[:] = (10, 20, 200)


@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
@pytest.mark.parametrize('order', ['BGR', 'RGB'])
def test_colours_arrive_in_the_networks_order(make_classifier, order, dtype):
    path = make_classifier(channel_order=order, dtype=dtype)
    classifier = Classifier(path, threads=1)
    found = classifier(BLUE, order='RGB')
    # The classes are named for BGR.
    names = ['blue', 'green', 'red'] if order == 'BGR' else ['red', 'green', 'blue']
    assert [item.name for item in found.top()] == names
    logits = np.array([200, 20, 10]) / 10
    expected = np.exp(logits) / np.exp(logits).sum()
    scores = [item.score for item in found.top()]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    np.testing.assert_array_equal(
        classifier(Image.fromarray(BLUE)).scores, found.scores
    )
    assert len(found.top(2)) == 2


def test_classes_without_names(make_classifier):
    found = Classifier(make_classifier(classes='[]'))(BLUE, 'RGB')
    assert [item.name for item in found.top()] == ['0', '1', '2']


def test_boxes_are_in_the_images_pixels(make_detector):
    boxes = [[0, 0, 48, 32], [20, 10, 30, 20], [-5, 8, 400, 80]]
    scores, labels = [0.4, 0.9, 0.6], [1, 0, 7]
    path = make_detector(boxes, scores, labels, steps=[FIT, PAD], size=[64, 96])
    detector = Detector(path)
    image = np.zeros((100, 120, 3), np.uint8)
    # To 64 x 77, and gray right of it.
    found = detector(image, 'BGR')
    scale = np.array([77 / 120, 0.64, 77 / 120, 0.64])
    expected = np.array(boxes)[[1, 2, 0]] / scale
    # As MMDetection leaves them, beyond the image's border, too.
    np.testing.assert_allclose(found.boxes, expected, rtol=1e-6)
    # The best first, and nothing of what fills up.
    np.testing.assert_allclose(found.scores, [0.9, 0.6, 0.4])
    assert found.names == ['blue', '7', 'green']
    assert found.labels.tolist() == [0, 7, 1]
    assert found.image_size == (100, 120)
    assert [item.score for item in detector(image, 'BGR', 0.5)] == [
        pytest.approx(0.9),
        pytest.approx(0.6),
    ]
    (item,) = found.select(slice(1))
    np.testing.assert_allclose(item.box, found.boxes[0])
    assert (item.name, item.label) == ('blue', 0)


def test_an_image_without_objects(make_detector):
    path = make_detector([], [], [], np.zeros((0, 28, 28)))
    found = Detector(path)(BLUE, 'RGB')
    assert (len(found), list(found)) == (0, [])
    assert found.boxes.shape == (0, 4)


def test_masks_are_pasted_as_mmdet_does(make_detector):
    rng = np.random.default_rng(0)
    corners = rng.uniform(-20, 100, (12, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)
    boxes = boxes[(boxes[:, :2] < [70, 60]).all(1) & (boxes[:, 2:] > 0).all(1)]
    # Small waves, so that there is more than one piece.
    waves = np.sin(np.arange(28) / 3)
    masks = 0.5 + 0.5 * waves[:, None] * waves + rng.uniform(-0.2, 0.2, (12, 28, 28))
    masks = masks[: len(boxes)].astype(np.float32)
    scores = np.linspace(0.9, 0.1, len(boxes))
    path = make_detector(boxes, scores, [0] * len(boxes), masks)
    found = Detector(path)(np.zeros((60, 70, 3), np.uint8), 'RGB')
    expected, _ = _do_paste_mask(
        torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), 60, 70, False
    )
    assert len(boxes) > 4
    for index, probability in enumerate(expected.numpy()):
        differs = found.mask(index) != (probability >= 0.5)
        # Sums in another order may fall on the other side.
        assert (np.abs(probability[differs] - 0.5) < 1e-5).all()
    assert found.mask(0).any() and not found.mask(0).all()


def test_masks_have_the_files_threshold(make_detector):
    # It falls from one to zero over a cell, 20 pixels wide, at both sides.
    half = np.repeat([[1.0, 0.0]], 14, axis=1)[None].repeat(28, 1)
    image = np.zeros((400, 600, 3), np.uint8)
    widths = []
    for changes in ({}, dict(mask_threshold='0.1'), dict(mask_threshold='0.9')):
        path = make_detector([[0, 0, 560, 400]], [0.9], [0], half, **changes)
        widths.append(int(Detector(path)(image, 'RGB').mask(0)[200].sum()))
    assert widths == pytest.approx([280, 288, 264], abs=1)
    with pytest.raises(ModelError, match='not understood'):
        Detector(make_detector([], [], [], mask_threshold='high'))


def test_a_mask_of_an_empty_box(make_detector):
    boxes = [[5, 5, 5, 20], [500, 500, 600, 600]]
    found = Detector(make_detector(boxes, [0.9, 0.8], [0, 0], np.ones((2, 28, 28))))(
        BLUE, 'RGB'
    )
    assert not found.mask(0).any() and not found.mask(1).any()
    with pytest.raises(ValueError, match='boxes without masks'):
        Detector(make_detector(boxes, [0.9, 0.8], [0, 0]))(BLUE, 'RGB').mask(0)


def test_batches_are_their_images(make_classifier, make_detector):
    images = [BLUE, BLUE[:, :, ::-1], np.zeros_like(BLUE)]
    classifier = Classifier(make_classifier())
    for image, found in zip(images, classifier.batch(images, 'RGB')):
        np.testing.assert_array_equal(found.scores, classifier(image, 'RGB').scores)
    detector = Detector(make_detector([[1, 2, 3, 4]], [0.5], [1]))
    for found in detector.batch(images, 'RGB'):
        np.testing.assert_array_equal(found.boxes, [[1, 2, 3, 4]])
    assert classifier.batch([]) == [] and detector.batch([]) == []
    with pytest.raises(ImageError, match='have 48x20, 48x32; run them one by one'):
        classifier.batch([BLUE, BLUE[:20]], 'RGB')


def test_a_file_of_one_size(make_classifier):
    path = make_classifier(dynamic=['width'])
    classifier = Classifier(path)
    classifier(BLUE[:, :20], 'RGB')
    with pytest.raises(
        ImageError, match='An image of 48x20 was given, .* height of 32'
    ):
        classifier(BLUE[:20], 'RGB')
    with pytest.raises(ModelError, match='takes one image at a time'):
        classifier.batch([BLUE, BLUE], 'RGB')
    steps = [dict(op='pad', size=[16, 64], value=[0, 0, 0])]
    with pytest.raises(ImageError, match='48x32 after .* does not fit into the 64x16'):
        Classifier(make_classifier(steps=steps))(BLUE, 'RGB')
    with pytest.raises(ImageError, match='700x1 is too narrow'):
        Classifier(make_classifier(steps=[FIT]))(np.zeros((1, 700), np.uint8))


def test_steps_of_later_versions(make_classifier):
    for step in (
        dict(op='rotate'),
        dict(FIT, mode='spiral'),
        dict(FIT, interpolation='lanczos'),
        dict(op='resize', mode='fit'),
        dict(op='crop', size=5),
        dict(PAD, value=[1, 2]),
    ):
        with pytest.raises(ModelError, match='is unknown here; update'):
            Classifier(make_classifier(steps=[step]))


def test_an_input_that_the_network_fails_on(make_classifier, capfd):
    onnx = pytest.importorskip('onnx')
    path = make_classifier()
    model = onnx.load(path)
    # It takes 48 pixels in truth.
    pool = onnx.helper.make_node('Reshape', ['images', 'shape'], ['reshaped'])
    shape = onnx.numpy_helper.from_array(np.array([-1, 3, 32, 48]), 'shape')
    model.graph.initializer.append(shape)
    model.graph.node[0].input[0] = 'reshaped'
    model.graph.node.insert(0, pool)
    onnx.save(model, path)
    classifier = Classifier(path, verify=False)
    classifier(BLUE, 'RGB')
    with pytest.raises(ImageError, match='failed on an input of 47x32'):
        classifier(BLUE[:, 1:], 'RGB')
    assert 'Reshape' not in capfd.readouterr().err


def test_threads(make_classifier):
    path = make_classifier()
    options = Classifier(path, threads=3).session.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry('mmcdnv2.intra_op_num_threads') == '3'
    assert Classifier(path).session.get_session_options().intra_op_num_threads > 0
    with pytest.raises(ValueError, match='positive number of threads'):
        Classifier(path, threads=0)


def test_a_box_that_passes_the_border_is_drawn_up_to_it(make_detector):
    from mmcdnv2_runtime.drawing import draw

    found = Detector(make_detector([[10, 4, 90, 20]], [0.9], [0]))(BLUE, 'RGB')
    picture = np.asarray(draw(BLUE, found))
    assert found.boxes[0, 2] == 90
    # Its right side, below the text.
    assert (picture[18, -1] != BLUE[0, 0]).any() and (picture[21:] == BLUE[21:]).all()
