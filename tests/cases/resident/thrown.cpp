// The library of exceptions.cpp.
#include "thrown.h"

Thrown::Thrown(int number) : std::runtime_error("thrown by a library"), number(number) {}
Thrown::~Thrown() = default;

void through(void (*call)()) {
    try {
        call();
    } catch (const Thrown &) {
        // Not this one.
    }
}

void throws(int number) { throw Thrown(number); }
void throws_by_name(int number) { throws(number); }
std::exception_ptr kept(int number) { return std::make_exception_ptr(Thrown(number)); }
