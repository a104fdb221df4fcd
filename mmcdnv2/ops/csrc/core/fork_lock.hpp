// A mutex that is unlocked in forked processes.

#pragma once

#include <pthread.h>

#include <mutex>

namespace mmcdnv2 {

// The mutex of the data of `Owner`. A fork waits until no other thread holds
// it, so the child finds it open and the data consistent.
//
// Like all static objects of the library it is created when the library is
// loaded, not at its first use: a child that is forked during that would wait
// forever for a thread that it does not have. It is never destroyed, as threads
// may outlive static objects.
template <class Owner>
inline std::mutex& fork_lock = *[] {
  pthread_atfork([] { fork_lock<Owner>.lock(); },
                 [] { fork_lock<Owner>.unlock(); },
                 [] { fork_lock<Owner>.unlock(); });
  return new std::mutex;
}();

}  // namespace mmcdnv2
