package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"strings"

	"github.com/vsockrpc/vsockrpc/guest"
)

// exampleAgent runs an agent for the examples; a real program has the address of
// its VM, such as "3" or "vsock-mux:/run/fc.sock:1000".
func exampleAgent() (addr string, stop func()) {
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		log.Fatal(err)
	}
	addr, stopAgent, err := runAgent(dir)
	if err != nil {
		log.Fatal(err)
	}
	return addr, func() {
		stopAgent()
		os.RemoveAll(dir)
	}
}

func ExampleDial() {
	addr, stop := exampleAgent()
	defer stop()
	ctx := context.Background()

	g, err := guest.Dial(ctx, addr, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()
	info, err := g.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Os.KernelName, info.Access.Trusted)
	// Output: Linux true
}

func ExampleGuest_Command() {
	addr, stop := exampleAgent()
	defer stop()
	ctx := context.Background()
	g, err := guest.Dial(ctx, addr, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	cmd := g.Command(ctx, "tr", "a-z", "A-Z")
	cmd.Stdin = strings.NewReader("some input")
	out, err := cmd.Output()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("in all caps: %s\n", out)
	// Output: in all caps: SOME INPUT
}

// A program that uses os/exec is ported by changing the constructor: describe is
// the same for both.
func ExampleCmd() {
	addr, stop := exampleAgent()
	defer stop()
	ctx := context.Background()
	g, err := guest.Dial(ctx, addr, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	describe := func(cmd interface{ CombinedOutput() ([]byte, error) }) {
		out, err := cmd.CombinedOutput()
		fmt.Printf("%q, %v\n", out, err)
	}
	describe(exec.CommandContext(ctx, "sh", "-c", "echo oops >&2; exit 3"))
	describe(g.Command(ctx, "sh", "-c", "echo oops >&2; exit 3"))
	// Output:
	// "oops\n", exit status 3
	// "oops\n", exit status 3
}

func ExampleExitError() {
	addr, stop := exampleAgent()
	defer stop()
	ctx := context.Background()
	g, err := guest.Dial(ctx, addr, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	_, err = g.Command(ctx, "sh", "-c", "echo why >&2; kill -TERM $$").Output()
	var exit *guest.ExitError
	if errors.As(err, &exit) {
		fmt.Printf("%v, %v: %s", exit, exit.Signal().Name(), exit.Stderr)
	}

	err = g.Command(ctx, "no-such-program").Run()
	fmt.Println(errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist))
	// Output:
	// signal: terminated, SIGTERM: why
	// true true
}

// A session outlives the program that started it.
func ExampleGuest_Attach() {
	addr, stop := exampleAgent()
	defer stop()
	ctx := context.Background()
	g, err := guest.Dial(ctx, addr, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	build := g.Command(ctx, "sh", "-c", "echo building; sleep 0.1; echo done")
	build.Detach, build.Name = true, "build"
	if err := build.Start(); err != nil {
		log.Fatal(err)
	}

	// Later, or in another program:
	var out bytes.Buffer
	again := g.Attach(ctx, "build", nil)
	again.Stdout = &out
	if err := again.Run(); err != nil {
		log.Fatal(err)
	}
	fmt.Print(out.String())
	// Output:
	// building
	// done
}
