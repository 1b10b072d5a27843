package vmtest

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kernelPackage is Debian's stock kernel for virtual machines. It depends on
// the package of its newest version.
const kernelPackage = "linux-image-cloud-amd64"

// A kernel is a stock kernel in the cache.
type kernel struct{ dir string }

// image is the uncompressed kernel, an ELF file that QEMU enters directly by
// its PVH note.
func (k kernel) image() string { return filepath.Join(k.dir, "vmlinux") }

// modules returns the files of modules, in the order of names.
func (k kernel) modules(names []string) ([]string, error) {
	return findModules(filepath.Join(k.dir, "modules"), names)
}

// findKernel returns the kernel of the nested lab, which it fetches once.
func findKernel(ctx context.Context) (kernel, error) {
	cache, err := cacheDir()
	if err != nil {
		return kernel{}, err
	}
	k := kernel{filepath.Join(cache, "kernel")}
	if _, err := os.Stat(k.image()); err == nil {
		return k, nil
	}
	dir, err := os.MkdirTemp(cache, "kernel-")
	if err != nil {
		return kernel{}, err
	}
	defer os.RemoveAll(dir)
	deb, err := downloadKernel(ctx, dir)
	if err != nil {
		return kernel{}, fmt.Errorf("%w: no kernel from Debian's %s: %w", ErrUnavailable, kernelPackage, err)
	}
	if err := unpackKernel(ctx, deb, dir); err != nil {
		return kernel{}, err
	}
	os.Remove(deb)
	// A run beside this one may have come first; its copy does as well.
	if err := os.Rename(dir, k.dir); err != nil && !errors.Is(err, os.ErrExist) {
		return kernel{}, err
	}
	return k, nil
}

// downloadKernel downloads the kernel's package into dir.
func downloadKernel(ctx context.Context, dir string) (deb string, err error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", errors.New("this is no Debian")
	}
	name, err := newestKernel(ctx)
	if err == nil {
		err = apt(ctx, dir, "download", "-q", name)
	}
	if err != nil && os.Geteuid() == 0 { // the lists are missing, or name what is gone
		if err := apt(ctx, dir, "update", "-q"); err != nil {
			return "", err
		}
		if name, err = newestKernel(ctx); err == nil {
			err = apt(ctx, dir, "download", "-q", name)
		}
	}
	if err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("apt-get download %s brought %q", name, debs)
	}
	return debs[0], nil
}

// newestKernel returns the name of the package that kernelPackage depends on.
func newestKernel(ctx context.Context) (string, error) {
	out, err := output(exec.CommandContext(ctx, "apt-cache", "show", "--no-all-versions", kernelPackage))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) {
		if deps, ok := strings.CutPrefix(line, "Depends: "); ok {
			return strings.Fields(deps)[0], nil
		}
	}
	return "", fmt.Errorf("%s depends on no kernel", kernelPackage)
}

// unpackKernel takes the kernel and its modules out of a package, into
// dir/vmlinux and dir/modules.
func unpackKernel(ctx context.Context, deb, dir string) error {
	if err := os.Mkdir(filepath.Join(dir, "modules"), 0o755); err != nil {
		return err
	}
	data, err := output(exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb))
	if err != nil {
		return err
	}
	var image []byte
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", deb, err)
		}
		base := filepath.Base(h.Name)
		isModule := strings.Contains(h.Name, "/virtio") || strings.Contains(h.Name, "/vhost/") || strings.Contains(h.Name, "/vmw_vsock/")
		switch {
		case h.Typeflag != tar.TypeReg:
		case strings.HasPrefix(base, "vmlinuz-"):
			if image, err = io.ReadAll(r); err != nil {
				return err
			}
		case isModule && strings.Contains(base, ".ko"):
			content, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			name, _, _ := strings.Cut(base, ".ko")
			if content, err = decompress(ctx, content); err != nil {
				return fmt.Errorf("%s: %w", h.Name, err)
			}
			if err := os.WriteFile(filepath.Join(dir, "modules", name+".ko"), content, 0o644); err != nil {
				return err
			}
		}
	}
	payload, err := bzImagePayload(image)
	if err != nil {
		return err
	}
	vmlinux, err := decompress(ctx, payload)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, "vmlinux"), vmlinux, 0o644)
}

// bzImagePayload returns the compressed kernel in a bzImage
// (Documentation/arch/x86/boot.rst in the kernel's source).
func bzImagePayload(image []byte) ([]byte, error) {
	if len(image) < 0x250 || string(image[0x202:0x206]) != "HdrS" {
		return nil, errors.New("the kernel package holds no bzImage")
	}
	sectors := int64(image[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + int64(binary.LittleEndian.Uint32(image[0x248:]))
	end := start + int64(binary.LittleEndian.Uint32(image[0x24c:])) - 4 // its last 4 bytes tell the unpacked size
	if start > end || end > int64(len(image)) {
		return nil, errors.New("the bzImage's payload is outside of it")
	}
	return image[start:end], nil
}

// decompress returns data unpacked, if it begins with the magic number of a
// compression that kernels and modules come in.
func decompress(ctx context.Context, data []byte) ([]byte, error) {
	for _, c := range []struct{ magic, program, pkg string }{
		{"\xfd7zXZ\x00", "xz", "xz-utils"},
		{"\x28\xb5\x2f\xfd", "zstd", "zstd"},
		{"\x1f\x8b", "gzip", "gzip"},
		{"\x02\x21\x4c\x18", "lz4", "lz4"},
	} {
		if bytes.HasPrefix(data, []byte(c.magic)) {
			if err := need(ctx, c.program, c.pkg); err != nil {
				return nil, err
			}
			cmd := exec.CommandContext(ctx, c.program, "-dc")
			cmd.Stdin = bytes.NewReader(data)
			return output(cmd)
		}
	}
	return data, nil
}
