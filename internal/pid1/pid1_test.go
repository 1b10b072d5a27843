//go:build linux

package pid1

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/internal/system"
)

func TestModuleName(t *testing.T) {
	for file, want := range map[string]string{
		"vsock.ko":            "vsock",
		"vsock.ko.xz":         "vsock",
		"vsock.ko.zst":        "vsock",
		"vsock.ko.gz":         "vsock",
		"virtio-pci.ko":       "virtio_pci",
		"03-virtio-pci.ko":    "virtio_pci",
		"8139too.ko":          "8139too",
		"vsock.ko.debug":      "",
		"modules.dep":         "",
		"vsock":               "",
		"vsock.ko.bz2":        "",
		"vmw-vsock_virtio.ko": "vmw_vsock_virtio",
	} {
		if got := moduleName(file); got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
}

func TestFindModules(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{
		"02-virtio.ko", "01-anything.ko.xz", "README",
		"6.1.0/kernel/net/vmw_vsock/vsock.ko", "6.1.0/kernel/drivers/virtio/virtio-pci.ko.zst",
		"6.1.0/kernel/net/other.ko", "6.1.0/modules.dep",
		"5.10.0/kernel/net/vmw_vsock/vsock.ko",
		"dir.ko/x",
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, m := range findModules(dir, "6.1.0") {
		rel, err := filepath.Rel(dir, m.path)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.name+" "+rel)
	}
	want := []string{
		"anything 01-anything.ko.xz",
		"virtio 02-virtio.ko",
		"virtio_pci 6.1.0/kernel/drivers/virtio/virtio-pci.ko.zst",
		"vsock 6.1.0/kernel/net/vmw_vsock/vsock.ko",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := findModules(filepath.Join(dir, "nothing"), "6.1.0"); got != nil {
		t.Errorf("modules out of nothing: %v", got)
	}
	if got := findModules(dir, ""); len(got) != 2 {
		t.Errorf("without a release: %v", got)
	}
}

// TestLoadAll has modules in the wrong order: each loads only after what it
// needs.
func TestLoadAll(t *testing.T) {
	needs := map[string][]string{
		"transport": {"common", "virtio"}, "common": {"vsock"}, "vsock": nil, "virtio": nil,
		"builtin": nil, "broken": {"missing"}, "nodevice": nil,
	}
	present := map[string]bool{"builtin": true}
	attempts := 0
	load := func(m module) error {
		attempts++
		if present[m.name] {
			return unix.EEXIST
		}
		if m.name == "nodevice" {
			return unix.ENODEV
		}
		for _, n := range needs[m.name] {
			if !present[n] {
				return unix.ENOENT
			}
		}
		present[m.name] = true
		return nil
	}
	var todo []module
	for _, name := range []string{"transport", "common", "builtin", "broken", "vsock", "virtio", "nodevice"} {
		todo = append(todo, module{name: name, path: "/" + name})
	}
	loaded, err := loadAll(todo, load)
	if want := []string{"vsock", "virtio", "common", "transport"}; !slices.Equal(loaded, want) {
		t.Errorf("loaded %v, want %v", loaded, want)
	}
	if !present["transport"] {
		t.Error("transport is not loaded")
	}
	if !errors.Is(err, unix.ENOENT) || !errors.Is(err, unix.ENODEV) {
		t.Errorf("error %v does not have both that failed", err)
	}
	if attempts > 30 {
		t.Errorf("%d attempts", attempts)
	}
	if loaded, err := loadAll(nil, load); loaded != nil || err != nil {
		t.Errorf("nothing to do: %v, %v", loaded, err)
	}
}

func TestParams(t *testing.T) {
	args := system.ParseKernelArgs(`quiet virtio_mmio.device=4K@0xd0000000:5 virtio-mmio.device=4K@0xd0001000:6 other.x=1 virtio_mmio.flag vsock`)
	for name, want := range map[string]string{
		"virtio_mmio": "device=4K@0xd0000000:5 device=4K@0xd0001000:6 flag",
		"vsock":       "",
	} {
		if got := params(name, args); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestHostname(t *testing.T) {
	for file, want := range map[string]string{
		"guest\n":                      "guest",
		"# a comment\n\n  guest  \nno": "guest",
		"guest":                        "guest",
		"":                             "",
		"# only a comment\n":           "",
	} {
		if got := string(hostname([]byte(file))); got != want {
			t.Errorf("%q: got %q, want %q", file, got, want)
		}
	}
	if err := SetHostname(t.TempDir()); err != nil {
		t.Errorf("without /etc/hostname: %v", err)
	}
}

func TestDisks(t *testing.T) {
	mounts := `rootfs / rootfs rw 0 0
/dev/vda1 / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
/dev/vdb /mnt/with\040space\134 xfs rw 0 0
tmpfs /tmp tmpfs rw 0 0
bad
`
	want := []string{"/", `/mnt/with space\`}
	if diff := cmp.Diff(want, disks([]byte(mounts))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestIsKernelThread(t *testing.T) {
	for stat, want := range map[string]bool{
		"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1":              true,
		"70 (a) S) b) S 1 70 70 0 -1 4194560 1000 0 0 0 0 0 0 0 20 0 1 0 29 0":  false,
		"70 (2129984 2129984 2129984) S 1 70 70 0 -1 4194560 1000 0 0 0 0 0 0 ": false,
		"1 (x) S 1": false,
	} {
		if got := isKernelThread([]byte(stat)); got != want {
			t.Errorf("%s: got %t", stat, got)
		}
	}
}

func TestOthers(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Skip(err)
	}
	pid := strconv.Itoa(child.Process.Pid)
	if !slices.Contains(others(), pid) {
		t.Error("a child is missing")
	}
	if slices.Contains(others(), strconv.Itoa(os.Getpid())) {
		t.Error("the process itself is among the others")
	}
	child.Process.Kill()
	child.Wait()
	if slices.Contains(others(), pid) {
		t.Error("a child that was waited for is still there")
	}
}

func TestIsMountPoint(t *testing.T) {
	if is, err := isMountPoint("/proc"); err != nil || !is {
		t.Errorf("/proc: %t, %v", is, err)
	}
	if is, err := isMountPoint(filepath.Join(t.TempDir())); err != nil || is {
		t.Errorf("a plain directory: %t, %v", is, err)
	}
	if _, err := isMountPoint("/no/such/directory"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
}

func TestOwnsMachine(t *testing.T) {
	if OwnsMachine() {
		t.Error("the test takes itself for the machine's first process")
	}
}
