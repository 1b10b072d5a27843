package guesttest_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/guest/guesttest"
)

// install is a function of a program that works with guests.
func install(ctx context.Context, g *guest.Guest, file, dir string) error {
	_, err := g.Files().CopyTo(ctx, []string{file}, dir+"/", nil)
	return err
}

// A test makes a guest of its own process with New(t); a program without a testing.TB
// with Start.
func Example() {
	ctx := context.Background()
	g, err := guesttest.Start(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file, target := filepath.Join(dir, "app.conf"), filepath.Join(dir, "etc")
	if err := os.WriteFile(file, []byte("debug = true\n"), 0o600); err != nil {
		log.Fatal(err)
	}

	if err := g.Files().Mkdir(ctx, target, 0o755); err != nil {
		log.Fatal(err)
	}
	g.Cut() // what is tested should survive a restore from a snapshot
	if err := install(ctx, g.Guest, file, target); err != nil {
		log.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(target, "app.conf"))
	fmt.Printf("%s%v\n", text, err)
	// Output:
	// debug = true
	// <nil>
}
