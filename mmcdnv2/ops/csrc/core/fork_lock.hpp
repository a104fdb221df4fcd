// A mutex that is unlocked in forked processes.

#pragma once

#include <pthread.h>

#include <mutex>

namespace mmcdnv2 {

// The mutex of `Owner`. A fork waits until no other thread holds it: in the
// child, that thread would not exist to unlock it, and the guarded data would
// be inconsistent.
template <class Owner>
std::mutex& fork_lock() {
  // Never destroyed: threads may outlive static objects.
  static std::mutex* mutex = [] {
    pthread_atfork([] { fork_lock<Owner>().lock(); },
                   [] { fork_lock<Owner>().unlock(); },
                   [] { fork_lock<Owner>().unlock(); });
    return new std::mutex;
  }();
  return *mutex;
}

}  // namespace mmcdnv2
