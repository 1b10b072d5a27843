//go:build linux

package process

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// localeDir is where glibc has its locales.
const localeDir = "/usr/lib/locale"

// takeLocale returns which of a client's variables LANG and LC_* a session gets: those
// that name a locale of the guest. dir is localeDir.
func takeLocale(dir string, offered [][]byte) []string {
	var taken []string
	for _, entry := range offered {
		name, value, ok := strings.Cut(string(entry), "=")
		if ok && (name == "LANG" || strings.HasPrefix(name, "LC_")) && hasLocale(dir, value) {
			taken = append(taken, string(entry))
		}
	}
	return taken
}

// hasLocale reports whether there is a locale of that name, such as de_DE.UTF-8.
func hasLocale(dir, name string) bool {
	switch {
	case name == "C" || name == "POSIX":
		return true
	case name == "" || len(name) > 64 || strings.ContainsAny(name, "/\x00") || name[0] == '.':
		return false
	}
	// Their files are called by the character set in small letters without hyphens.
	file := name
	if lang, rest, ok := strings.Cut(name, "."); ok {
		charset, modifier, _ := strings.Cut(rest, "@")
		file = lang + "." + strings.ToLower(strings.ReplaceAll(charset, "-", ""))
		if modifier != "" {
			file += "@" + modifier
		}
	}
	for _, n := range []string{name, file} {
		if info, err := os.Stat(filepath.Join(dir, n)); err == nil && info.IsDir() {
			return true
		}
	}
	return inArchive(filepath.Join(dir, "locale-archive"), file)
}

const (
	archiveMagic = 0xde020109
	maxNames     = 1 << 20 // bytes of an archive's names
)

// inArchive reports whether glibc's archive of locales has one.
func inArchive(path, name string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var head struct {
		Magic, Serial                    uint32
		HashOffset, HashUsed, HashSize   uint32
		NamesOffset, NamesUsed, NameSize uint32
	}
	if binary.Read(f, binary.NativeEndian, &head) != nil || head.Magic != archiveMagic {
		return false
	}
	names, err := io.ReadAll(io.NewSectionReader(f, int64(head.NamesOffset), int64(min(head.NamesUsed, maxNames))))
	return err == nil && bytes.Contains(append([]byte{0}, names...), []byte("\x00"+name+"\x00"))
}
