package system

import (
	"io"
	"os"
	"strings"
)

// maxFile bounds what is read of a file; all of them are much smaller.
const maxFile = 64 << 10

func readFile(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil
	}
	return b
}

// text makes b fit for a protobuf string.
func text(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }
