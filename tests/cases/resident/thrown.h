#pragma once
#include <exception>
#include <stdexcept>

struct Thrown : std::runtime_error {
    int number;
    explicit Thrown(int number);
    ~Thrown() override;
};

void through(void (*call)());
void throws(int number);
std::exception_ptr kept(int number);
extern "C" void throws_by_name(int number);
