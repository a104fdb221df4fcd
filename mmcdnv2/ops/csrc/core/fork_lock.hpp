// A lock that a forked process finds open.

#pragma once

#include <pthread.h>

#include <mutex>

namespace mmcdnv2 {

// The one mutex of what `Owner` guards. A fork waits until no other thread has
// it: the child has none of those, which would keep it locked, and what it
// guards is whole.
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
