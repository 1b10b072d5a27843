package guest_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkCopy copies a large file, and a tree of small ones, each way, beside
// cp, tar through a Unix socket, a bare socket, rsync and scp over an sshd of
// loopback. In each round everybody has its turn; the figures are each one's
// median, and for the copies of this package the median of the ratios to each of
// the others, of the same round: above 1 it is faster. All have what they wrote
// durable: what does not see to it itself is followed by "sync -f".
//
// Copies of the tree stay until the end: ext4 does not give the number of a file that
// was removed a short time ago to a new one, and looks for another one at length, so
// that whoever copies after a removal of thousands of files is a multiple slower.
// Before the first round there is a copy that does not count: in a virtual machine
// the first use of memory for files costs more than all else.
//
// Both ends are this machine's disk and its processors.
func BenchmarkCopy(b *testing.B) {
	size, files := int64(256<<20), 5000
	if stress {
		size, files = 2<<30, 50_000
	}
	dir := b.TempDir()
	large, small := filepath.Join(dir, "large"), filepath.Join(dir, "small")
	makeLarge(b, large, size)
	makeSmall(b, small, files)
	g := dialAgent(b, startAgent(b))
	ssh := sshPeer(b, dir)
	for _, src := range []string{large, small} {
		peers := []copyPeer{
			{"to", func(dst string) error {
				_, err := g.Files().CopyTo(b.Context(), []string{src}, dst, nil)
				return err
			}, true},
			{"from", func(dst string) error {
				_, err := g.Files().CopyFrom(b.Context(), []string{src}, dst, nil)
				return err
			}, true},
			{"cp", func(dst string) error { return runAll(exec.Command("cp", "-a", src, dst)) }, false},
			{"tar", func(dst string) error { return tarThroughSocket(src, dst) }, false},
			{"rsync", func(dst string) error { return ssh.rsync(src, dst) }, false},
			{"scp", func(dst string) error { return ssh.scp(src, dst) }, false},
		}
		if src == large {
			peers = append(peers, copyPeer{"socket", func(dst string) error { return copyThroughSocket(src, filepath.Join(dst, "large")) }, true})
		}
		b.Run(filepath.Base(src), func(b *testing.B) {
			took := make(map[string][]float64)
			warm := filepath.Join(dir, "warm-"+filepath.Base(src))
			if err := exec.Command("cp", "-a", src, warm).Run(); err != nil {
				b.Fatal(err)
			}
			if src == large {
				os.Remove(warm)
			}
			for round := 0; b.Loop(); round++ {
				// Nobody is always the first.
				for i := range peers {
					p := peers[(i+round)%len(peers)]
					dst := filepath.Join(dir, fmt.Sprintf("dst-%s-%s-%d", p.name, filepath.Base(src), round))
					seconds, err := p.measure(dst)
					if src == large {
						os.RemoveAll(dst)
					}
					if err != nil {
						b.Logf("%s: %v", p.name, err)
						continue
					}
					took[p.name] = append(took[p.name], seconds)
				}
			}
			b.ReportMetric(0, "ns/op")
			for _, p := range peers {
				t := took[p.name]
				if len(t) < len(took["to"]) {
					continue
				}
				b.ReportMetric(median(t), p.name+"-s")
				for _, own := range []string{"to", "from"} {
					if p.name == own {
						continue
					}
					var ratios []float64
					for i := range t {
						ratios = append(ratios, t[i]/took[own][i])
					}
					b.ReportMetric(median(ratios), p.name+"/"+own)
				}
			}
		})
	}
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// copyPeer is a way to copy into a directory that is there.
type copyPeer struct {
	name    string
	copy    func(dst string) error
	durable bool // by itself
}

// measure returns how long a copy to a new directory takes, with what makes it
// durable.
func (p copyPeer) measure(dst string) (float64, error) {
	if err := os.Mkdir(dst, 0o755); err != nil {
		return 0, err
	}
	unix.Sync() // what others have left to write
	start := time.Now()
	err := p.copy(dst)
	if err == nil && !p.durable {
		err = syncFileSystem(dst)
	}
	return time.Since(start).Seconds(), err
}

func syncFileSystem(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

func makeLarge(b *testing.B, name string, size int64) {
	b.Helper()
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{3}), size); err != nil {
		b.Fatal(err)
	}
}

// makeSmall makes files of 0 to 8 KiB in directories of a hundred.
func makeSmall(b *testing.B, dir string, files int) {
	b.Helper()
	random := rand.NewChaCha8([32]byte{4})
	data := make([]byte, 8<<10)
	for i := range files {
		name := filepath.Join(dir, fmt.Sprintf("d%03d", i/100), fmt.Sprintf("file%05d", i))
		random.Read(data)
		if i%100 == 0 {
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(name, data[:random.Uint64()%uint64(len(data))], 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

// runAll runs programs at the same time.
func runAll(cmds ...*exec.Cmd) error {
	var first error
	for _, c := range cmds {
		if err := c.Start(); err != nil {
			return err
		}
	}
	for _, c := range cmds {
		if err := c.Wait(); err != nil && first == nil {
			first = fmt.Errorf("%v: %w", c.Args, err)
		}
	}
	return first
}

// tarThroughSocket runs a tar on each end of a pair of Unix sockets.
func tarThroughSocket(src, dst string) error {
	ends, err := socketPair()
	if err != nil {
		return err
	}
	pack := exec.Command("tar", "cf", "-", "-C", filepath.Dir(src), filepath.Base(src))
	unpack := exec.Command("tar", "xf", "-", "-C", dst)
	pack.Stdout, unpack.Stdin = ends[0], ends[1]
	if err := pack.Start(); err != nil {
		return err
	}
	ends[0].Close()
	err = unpack.Start()
	ends[1].Close()
	if err == nil {
		err = unpack.Wait()
	}
	if packErr := pack.Wait(); err == nil {
		err = packErr
	}
	return err
}

func socketPair() (ends [2]*os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		ends = [2]*os.File{os.NewFile(uintptr(fds[0]), "here"), os.NewFile(uintptr(fds[1]), "there")}
	}
	return ends, err
}

// copyThroughSocket writes a file to a Unix socket, reads it from there in pieces
// of 256 KiB, and makes the copy durable: no hash, no protocol.
func copyThroughSocket(src, dst string) error {
	ends, err := socketPair()
	if err != nil {
		return err
	}
	defer ends[1].Close()
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{ends[0]}, struct{ io.Reader }{in}, make([]byte, 256<<10))
		ends[0].Close()
		sent <- err
	}()
	out, err := os.Create(dst)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{ends[1]}, make([]byte, 256<<10)); err == nil {
		err = out.Sync()
	}
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	return err
}

// sshDaemon is an sshd of loopback; empty, if there is none.
type sshDaemon struct{ options []string }

var errNoSSH = fmt.Errorf("there is no sshd")

func (d sshDaemon) rsync(src, dst string) error {
	if d.options == nil {
		return errNoSSH
	}
	shell := "ssh"
	for _, o := range d.options {
		shell += " " + o
	}
	return runAll(exec.Command("rsync", "-a", "-e", shell, src, "127.0.0.1:"+dst+"/"))
}

func (d sshDaemon) scp(src, dst string) error {
	if d.options == nil {
		return errNoSSH
	}
	return runAll(exec.Command("scp", append(append([]string{"-q", "-r", "-p"}, d.options...), src, "127.0.0.1:"+dst+"/")...))
}

// sshPeer starts an sshd with a configuration of its own.
func sshPeer(b *testing.B, dir string) sshDaemon {
	sshd, err := exec.LookPath("/usr/sbin/sshd")
	me, userErr := user.Current()
	if err != nil || userErr != nil {
		return sshDaemon{}
	}
	os.Mkdir("/run/sshd", 0o755) // what it wants to have, of root
	for _, key := range []string{"host", "user"} {
		if err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).Run(); err != nil {
			b.Log(err)
			return sshDaemon{}
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	config := fmt.Sprintf("ListenAddress 127.0.0.1\nPort %[2]s\nHostKey %[1]s/host\nPidFile none\nAuthorizedKeysFile %[1]s/user.pub\nStrictModes no\n"+
		"UsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\nPerSourceMaxStartups none\n", dir, port)
	if err := os.WriteFile(filepath.Join(dir, "sshd_config"), []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(sshd, "-D", "-f", filepath.Join(dir, "sshd_config"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Log(err)
		return sshDaemon{}
	}
	b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	options := []string{"-F", "none"}
	for _, o := range []string{"Port=" + port, "User=" + me.Username, "IdentityFile=" + filepath.Join(dir, "user"), "IdentitiesOnly=yes", "BatchMode=yes",
		"StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"} {
		options = append(options, "-o", o)
	}
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err := exec.Command("ssh", append(slices.Clone(options), "127.0.0.1", "true")...).Run()
		if err == nil {
			return sshDaemon{options}
		}
		if time.Since(start) > 20*time.Second {
			b.Logf("ssh: %v", err)
			return sshDaemon{}
		}
	}
}
