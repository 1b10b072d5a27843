package vmtest

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// findModules returns the files of the named kernel modules below dir, in the
// order of names. One that is not there is left out: it may be built in, and if
// it is not, loading what depends on it fails and says so.
func findModules(dir string, names []string) ([]string, error) {
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if base, _, ok := strings.Cut(filepath.Base(path), ".ko"); ok && err == nil && d.Type().IsRegular() {
			files[strings.ReplaceAll(base, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find kernel modules: %w", err)
	}
	var found []string
	for _, name := range names {
		if file, ok := files[name]; ok {
			found = append(found, file)
		}
	}
	return found, nil
}
