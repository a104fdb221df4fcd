// Compiled once for each instruction set, with these set on the command line:
// MMCDNV2_ISA (the namespace), MMCDNV2_LANES and MMCDNV2_REGISTERS.
#define MMCDNV2_TO_STRING(x) #x
#define MMCDNV2_STRING(x) MMCDNV2_TO_STRING(x)

#include "kernels.hpp"
