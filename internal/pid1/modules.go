//go:build linux

package pid1

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/internal/system"
)

// vsockModules are what a guest of a virtio VMM needs for vsock. Which of them
// a kernel has as modules, and which built in, differs.
var vsockModules = []string{
	"virtio", "virtio_ring",
	"virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_mmio",
	"vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport",
}

// A module is a file that can be loaded.
type module struct {
	name string // with underscores, as the kernel has it
	path string
}

// LoadModules loads the modules that vsock needs from below root, usually "/":
//
//   - of /lib/modules/RELEASE, a distribution's tree for the kernel release
//     given, those that vsock over virtio needs;
//   - of /lib/modules itself, every file: who puts modules there without a
//     tree made the image for just this.
//
// Their parameters are taken from the kernel's command line. They may depend
// on each other in any order. It returns the names of the modules that it
// loaded; the error joins those of all that failed. A module that is loaded or
// built in already is neither.
func LoadModules(root, release string, args []system.KernelArg) ([]string, error) {
	found := findModules(filepath.Join(root, "lib/modules"), release)
	return loadAll(found, func(m module) error { return load(m, params(m.name, args)) })
}

// findModules returns the modules to load, those of the flat directory first,
// by file name, so that numbers can order them.
func findModules(dir, release string) []module {
	var found []module
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if name := moduleName(e.Name()); name != "" && !e.IsDir() {
			found = append(found, module{name, filepath.Join(dir, e.Name())})
		}
	}
	if release == "" {
		return found
	}
	// An error leaves a directory out.
	filepath.WalkDir(filepath.Join(dir, release), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && slices.Contains(vsockModules, moduleName(e.Name())) {
			found = append(found, module{moduleName(e.Name()), path})
		}
		return nil
	})
	return found
}

// moduleName returns the name of the module in a file, or "" if it is none. A
// number with a dash in front, which orders files, is not part of the name.
func moduleName(file string) string {
	for _, ext := range []string{".ko", ".ko.gz", ".ko.xz", ".ko.zst"} {
		if name, ok := strings.CutSuffix(file, ext); ok {
			if number, rest, ok := strings.Cut(name, "-"); ok && strings.Trim(number, "0123456789") == "" {
				name = rest
			}
			return strings.ReplaceAll(name, "-", "_")
		}
	}
	return ""
}

// loadAll loads modules in rounds, as long as a round gets one in: a module
// that needs symbols of another fails until that is there.
func loadAll(todo []module, load func(module) error) ([]string, error) {
	var loaded []string
	for {
		var failed []module
		var errs []error
		before := len(loaded)
		for _, m := range todo {
			switch err := load(m); {
			case err == nil:
				loaded = append(loaded, m.name)
			case errors.Is(err, unix.EEXIST):
			default:
				failed = append(failed, m)
				errs = append(errs, fmt.Errorf("load %s: %w", m.path, err))
			}
		}
		if len(failed) == 0 || len(loaded) == before {
			return loaded, errors.Join(errs...)
		}
		todo = failed
	}
}

func load(m module, params string) error {
	f, err := os.Open(m.path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(m.path, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(f.Fd()), params, flags)
	if flags != 0 && errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("this kernel does not decompress modules (CONFIG_MODULE_DECOMPRESS): put the plain .ko there: %w", err)
	}
	return err
}

// params returns the parameters for a module, which the kernel's command line
// has as MODULE.NAME=VALUE. The kernel itself applies them to what is built in
// only.
func params(name string, args []system.KernelArg) string {
	var words []string
	for _, a := range args {
		mod, param, ok := strings.Cut(a.Name, ".")
		if !ok || strings.ReplaceAll(mod, "-", "_") != name {
			continue
		}
		if a.Value != "" {
			param += "=" + a.Value
		}
		words = append(words, param)
	}
	return strings.Join(words, " ")
}
