// A Go program: its runtime makes threads of its own, calls the kernel without a libc, and handles signals on small stacks.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
)

func check(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(9)
	}
}

func files() {
	directory, err := os.MkdirTemp(".", "go")
	check(err)
	var all sync.WaitGroup
	for i := 0; i < 50; i++ {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			name := filepath.Join(directory, fmt.Sprint("d", i%5), fmt.Sprint(i))
			check(os.MkdirAll(filepath.Dir(name), 0o755))
			_, err := os.Stat(name)
			if !errors.Is(err, fs.ErrNotExist) {
				fmt.Println("there already:", err)
			}
			check(os.WriteFile(name, []byte("x"), 0o644))
			_, err = os.Stat(name + "/x")
			if !errors.Is(err, syscall.ENOTDIR) {
				fmt.Println("no ENOTDIR:", err)
			}
		}(i)
	}
	all.Wait()
	count := 0
	check(filepath.WalkDir(directory, func(string, fs.DirEntry, error) error { count++; return nil }))
	fmt.Println("names:", count)
	check(os.RemoveAll(directory))
	_, err = os.Stat(directory)
	fmt.Println("gone:", errors.Is(err, fs.ErrNotExist))
	real, err := filepath.EvalSymlinks("/bin/sh")
	fmt.Println(real, err)
	executable, err := os.Executable()
	fmt.Println(executable, err)
	here, err := os.Getwd()
	fmt.Println(here, err)
}

func sockets() {
	listener, err := net.Listen("unix", "go-socket")
	check(err)
	go func() {
		connection, err := listener.Accept()
		check(err)
		connection.Write([]byte("hello"))
		connection.Close()
	}()
	connection, err := net.Dial("unix", "go-socket")
	check(err)
	text := make([]byte, 10)
	n, err := connection.Read(text)
	fmt.Println(string(text[:n]), err, connection.RemoteAddr())
	listener.Close()
	_, err = os.Stat("go-socket")
	fmt.Println(err)
}

func signals() {
	received := make(chan os.Signal, 1)
	signal.Notify(received, syscall.SIGUSR1)
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	fmt.Println(<-received)
	defer func() { fmt.Println("recovered:", recover()) }()
	var nowhere *int
	*nowhere = 1
}

func programs() {
	out, err := exec.Command("sh", "-c", "echo from a shell; exit 3").CombinedOutput()
	fmt.Printf("%s%v\n", out, err)
	_, err = exec.LookPath("no-such-program")
	fmt.Println(err)
	err = exec.Command("/bin/missing").Run()
	fmt.Println(err)
	var all sync.WaitGroup
	for i := 0; i < 20; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			check(exec.Command("/bin/true").Run())
		}()
	}
	all.Wait()
	check(syscall.Exec("/bin/echo", []string{"echo", "replaced"}, os.Environ()))
}

func main() {
	if len(os.Args) > 1 {
		programs()
		return
	}
	files()
	sockets()
	signals()
}
