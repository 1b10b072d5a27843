package guest_test

import (
	"io"
	"os/exec"
	"strconv"
	"testing"

	"github.com/vsockrpc/vsockrpc/guest"
)

// BenchmarkOutput moves the output of a command, beside what a local pipe
// carries.
func BenchmarkOutput(b *testing.B) {
	const size = 64 << 20
	args := []string{"if=/dev/zero", "bs=128k", "status=none", "count=" + strconv.Itoa(size>>17)}
	b.Run("pipe", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			cmd := exec.Command("dd", args...)
			cmd.Stdout = struct{ io.Writer }{io.Discard} // not a file: copied
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, wire := range []guest.Wire{guest.WireNative, guest.WireGRPC} {
		b.Run(string(wire), func(b *testing.B) {
			g, err := guest.Dial(b.Context(), startAgent(b), &guest.Config{Wire: wire})
			if err != nil {
				b.Fatal(err)
			}
			defer g.Close()
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				cmd := g.Command(b.Context(), "dd", args...)
				cmd.Stdout = io.Discard
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkTrue starts a command that does nothing, and waits for its end.
func BenchmarkTrue(b *testing.B) {
	b.Run("os-exec", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("true").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	g := dialAgent(b, startAgent(b))
	b.Run("guest", func(b *testing.B) {
		for b.Loop() {
			if err := g.Command(b.Context(), "true").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
