package vmtest

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// An initramfs is written file by file as the cpio archive that Linux unpacks
// as its first root (Documentation/driver-api/early-userspace/buffer-format in
// the kernel's source). It is not compressed: the emulated machines would take
// longer to unpack it than to read it. The first error sticks; Close returns it.
type initramfs struct {
	f    *os.File
	w    *bufio.Writer
	dirs map[string]bool
	ino  int
	err  error
}

// createInitramfs creates the file name.
func createInitramfs(name string) *initramfs {
	f, err := os.Create(name)
	return &initramfs{f: f, w: bufio.NewWriterSize(f, 1<<20), dirs: map[string]bool{".": true, "/": true}, err: err}
}

// Copy adds the file source as name, executable.
func (a *initramfs) Copy(name, source string) {
	if a.err != nil {
		return
	}
	f, err := os.Open(source)
	if err != nil {
		a.err = err
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		a.err = err
		return
	}
	a.add(name, 0o100755, info.Size(), f)
}

// File adds a file with the content data.
func (a *initramfs) File(name, data string) {
	a.add(name, 0o100644, int64(len(data)), strings.NewReader(data))
}

// Symlink adds a symbolic link.
func (a *initramfs) Symlink(name, target string) {
	a.add(name, 0o120777, int64(len(target)), strings.NewReader(target))
}

// Dir adds an empty directory; those that hold files are there anyway.
func (a *initramfs) Dir(name string) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if a.dirs[name] || name == "" {
		return
	}
	a.dirs[name] = true
	a.add(name, 0o040755, 0, strings.NewReader(""))
}

// add writes one entry: a header of 13 fields of 8 hex digits, the name, the
// data, each padded to 4 bytes.
func (a *initramfs) add(name string, mode, size int64, data io.Reader) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	a.Dir(path.Dir(name))
	if a.err != nil {
		return
	}
	if size > 1<<32-1 {
		a.err = &fs.PathError{Op: "archive", Path: name, Err: fmt.Errorf("%d bytes are too many", size)}
		return
	}
	a.ino++
	a.write(fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.ino, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name))
	a.pad(110 + len(name) + 1)
	if a.err != nil {
		return
	}
	if _, a.err = io.CopyN(a.w, data, size); a.err != nil {
		return
	}
	a.pad(int(size % 4))
}

func (a *initramfs) write(s string) {
	if a.err == nil {
		_, a.err = a.w.WriteString(s)
	}
}

// pad completes n bytes to a multiple of 4.
func (a *initramfs) pad(n int) { a.write("\x00\x00\x00"[:(4-n%4)%4]) }

// Close ends the archive and closes the file.
func (a *initramfs) Close() error {
	a.add("TRAILER!!!", 0, 0, strings.NewReader(""))
	if a.err == nil {
		a.err = a.w.Flush()
	}
	if a.f != nil {
		if err := a.f.Close(); a.err == nil {
			a.err = err
		}
	}
	return a.err
}
