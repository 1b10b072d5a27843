package guest_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/internal/wait"
)

// asHelper has a test of the helpers do its work: the directory of the socket.
const asHelper = "VSOCKRPC_TEST_COPY_HELPER"

// TestHelperAgent is the agent of TestCopyKilled.
func TestHelperAgent(t *testing.T) {
	dir := os.Getenv(asHelper)
	if dir == "" {
		t.Skip("a helper of TestCopyKilled")
	}
	if size, err := strconv.ParseUint(os.Getenv(asHelper+"_FSIZE"), 10, 64); err == nil {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: size}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := runAgent(dir); err != nil {
		t.Fatal(err)
	}
	select {} // until it is killed
}

// TestHelperCopy is the client.
func TestHelperCopy(t *testing.T) {
	dir := os.Getenv(asHelper)
	if dir == "" {
		t.Skip("a helper of TestCopyKilled")
	}
	g, err := guest.Dial(t.Context(), "unix:"+filepath.Join(dir, "agent.sock"), nil)
	if err != nil {
		t.Fatal(err)
	}
	copyFile := g.Files().CopyTo
	if os.Getenv(asHelper+"_FROM") != "" {
		copyFile = g.Files().CopyFrom
	}
	if _, err := copyFile(t.Context(), []string{filepath.Join(dir, "src")}, filepath.Join(dir, "dst"), &guest.CopyOptions{Resume: true}); err != nil {
		t.Fatal(err)
	}
}

// helper starts one of the helpers.
func helper(t *testing.T, name, dir string, from bool) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+name+"$")
	cmd.Env = append(os.Environ(), asHelper+"="+dir)
	if from {
		cmd.Env = append(cmd.Env, asHelper+"_FROM=1")
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// awaitAgent waits until an agent listens.
func awaitAgent(t *testing.T, dir string) {
	t.Helper()
	wait.For(t, "the agent listens", func() bool {
		c, err := net.Dial("unix", filepath.Join(dir, "agent.sock"))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// TestCopyKilled kills the agent or the client at random moments of a copy: the
// destination has the old file or the whole new one, and another copy goes on
// and leaves nothing behind.
func TestCopyKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("many processes")
	}
	rounds := 20
	if stress {
		rounds = 200
	}
	dir, err := os.MkdirTemp("", "kill")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	dst := filepath.Join(dir, "dst")
	want := randomFile(t, filepath.Join(dir, "src"), 24<<20)
	random := rand.New(rand.NewPCG(1, 2))
	whole := 0
	for i := range rounds {
		old := []byte(fmt.Sprint("old ", i))
		if err := os.WriteFile(dst, old, 0o644); err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(dir, "agent.sock"))
		agent := helper(t, "TestHelperAgent", dir, false)
		awaitAgent(t, dir)
		client := helper(t, "TestHelperCopy", dir, i%2 == 1)
		// From before the copy begins until after it has ended.
		time.Sleep(time.Duration(random.Int64N(int64(400 * time.Millisecond))))
		victim := client
		if i%4 < 2 {
			victim = agent
		}
		victim.Process.Kill()
		victim.Wait()
		if victim == agent {
			client.Process.Kill()
			client.Wait()
		}
		data, err := os.ReadFile(dst)
		if err != nil {
			t.Fatal(err)
		}
		if string(data) != string(old) {
			if hashFile(t, dst) != want {
				t.Fatalf("round %d: %d bytes that are neither the old nor the new file", i, len(data))
			}
			whole++
		}
		agent.Process.Kill()
		agent.Wait()
	}
	os.Remove(filepath.Join(dir, "agent.sock"))
	helper(t, "TestHelperAgent", dir, false)
	awaitAgent(t, dir)
	for _, from := range []bool{false, true} {
		os.Remove(dst)
		if err := helper(t, "TestHelperCopy", dir, from).Wait(); err != nil {
			t.Fatal(err)
		}
		if hashFile(t, dst) != want {
			t.Error("the last copy has another hash")
		}
	}
	noLeftovers(t, dir)
	t.Logf("the new file was there in %d of %d rounds", whole, rounds)
}
