package vmtest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBzImagePayload(t *testing.T) {
	const sectors = 3
	payload := []byte("compressed")
	image := make([]byte, (sectors+1)*512, 4096)
	image[0x1f1] = sectors
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint32(image[0x248:], 7)
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)+4))
	image = append(image, "1234567"...)
	image = append(image, payload...)
	image = append(image, "size"...)
	if got, err := bzImagePayload(image); err != nil || !bytes.Equal(got, payload) {
		t.Errorf("payload %q, %v, want %q", got, err, payload)
	}
	for name, broken := range map[string][]byte{
		"no kernel": []byte("MZ"),
		"truncated": image[:len(image)-5],
		"no header": make([]byte, len(image)),
	} {
		if got, err := bzImagePayload(broken); err == nil {
			t.Errorf("%s: payload %q, want an error", name, got)
		}
	}
}

func TestDecompress(t *testing.T) {
	if got, err := decompress(t.Context(), []byte("\x7fELF")); err != nil || string(got) != "\x7fELF" {
		t.Errorf("plain data became %q, %v", got, err)
	}
	if _, err := exec.LookPath("gzip"); err != nil {
		t.Skip(err)
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	w.Write([]byte("kernel"))
	w.Close()
	if got, err := decompress(t.Context(), packed.Bytes()); err != nil || string(got) != "kernel" {
		t.Errorf("unpacked %q, %v", got, err)
	}
}

func TestFindModules(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"net/vsock.ko", "drivers/virtio-rng.ko.xz", "drivers/modules.order"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := findModules(dir, []string{"virtio_rng", "built_in", "vsock"})
	want := []string{filepath.Join(dir, "drivers/virtio-rng.ko.xz"), filepath.Join(dir, "net/vsock.ko")}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("modules (-want +got):\n%s%v", diff, err)
	}
	if _, err := findModules(filepath.Join(dir, "missing"), nil); err == nil {
		t.Error("no error for a directory that is missing")
	}
}

func TestNeed(t *testing.T) {
	if err := need(t.Context(), "go", "golang"); err != nil {
		t.Errorf("need what is there: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := need(t.Context(), "linux.uml", "user-mode-linux"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("need without apt-get: %v, want ErrUnavailable", err)
	}
}

func TestFindPackages(t *testing.T) {
	got, err := FindPackages(t.Context(), "./...")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Abs("selftest")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{dir}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
}
