// Exceptions through a library's frames, out of threads, and of a type that the library has.
#include "thrown.h"

#include <dlfcn.h>

#include <future>
#include <iostream>
#include <locale>
#include <memory>
#include <regex>
#include <sstream>
#include <thread>

struct Ends {
    const char *name;
    explicit Ends(const char *name) : name(name) { std::cout << "made " << name << '\n'; }
    ~Ends() { std::cout << "gone " << name << '\n'; }
};

static Ends whole("static");
static thread_local Ends each("of a thread");

static void passes_on() { throw std::out_of_range("from the program"); }

int main() {
    std::cout << each.name << '\n';
    try {
        through(passes_on);
    } catch (const std::exception &error) {
        std::cout << "through a library: " << error.what() << '\n';
    }
    try {
        throws(5);
    } catch (const Thrown &error) {
        std::cout << "of a library: " << error.number << ' ' << error.what() << '\n';
    }
    try {
        std::rethrow_exception(kept(8));
    } catch (const std::exception &error) {
        std::cout << "kept: " << dynamic_cast<const Thrown &>(error).number << '\n';
    }
    auto later = std::async(std::launch::async, [] {
        std::cout << each.name << '\n';
        throws(6);
        return 0;
    });
    try {
        later.get();
    } catch (const Thrown &error) {
        std::cout << "out of a thread: " << error.number << '\n';
    }
    void *again = dlopen("libthrown.so", RTLD_NOW | RTLD_NOLOAD);
    auto loaded = reinterpret_cast<void (*)(int)>(dlsym(again, "throws_by_name"));
    try {
        loaded(7);
    } catch (const std::runtime_error &error) {
        std::cout << "by dlsym: " << error.what() << '\n';
    }
    std::ostringstream text;
    text.imbue(std::locale::classic());
    text << std::regex_replace(std::string("a1b2"), std::regex("[0-9]"), "-") << ' ' << 1.5;
    std::cout << text.str() << std::endl;
    auto none = std::make_unique<int[]>(4);
    try {
        std::cout << std::string(none[0], 'x').at(3);
    } catch (const std::out_of_range &) {
        std::cout << "out of range\n";
    }
    return 7;
}
