package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"runtime"
	"strings"

	"google.golang.org/grpc/codes"
)

// Bounds on what a sender may send, whatever the configuration.
const (
	maxName   = 255
	maxPath   = 4096
	maxDepth  = 256
	maxTarget = 4095 // PATH_MAX less the zero byte
)

// splitPath returns the elements of an entry's path; none for an empty path. It
// refuses whatever is no plain relative path.
func splitPath(path []byte) ([]string, error) {
	if len(path) == 0 {
		return nil, nil
	}
	if len(path) > maxPath {
		return nil, newFailure("receive", string(path[:64])+"…", codes.InvalidArgument, ReasonNameTooLong, "a path of %d bytes", len(path))
	}
	elements := strings.Split(string(path), "/")
	if len(elements) > maxDepth {
		return nil, newFailure("receive", string(path), codes.InvalidArgument, ReasonTooDeep, "%d directories deep", len(elements))
	}
	for _, e := range elements {
		if err := checkName(e); err != nil {
			return nil, err
		}
	}
	return elements, nil
}

// checkName refuses what is no name of a file in a directory here.
func checkName(name string) error {
	bad := func(why string) error {
		return newFailure("receive", name, codes.InvalidArgument, ReasonBadName, "%s", why)
	}
	switch {
	case name == "":
		return bad("an empty name")
	case name == "." || name == "..":
		return bad("a name that means another directory")
	case len(name) > maxName:
		return newFailure("receive", name, codes.InvalidArgument, ReasonNameTooLong, "a name of %d bytes", len(name))
	case strings.ContainsAny(name, "/\x00"):
		return bad("a name with a slash or a zero byte")
	case strings.HasPrefix(name, tempPrefix) && strings.HasSuffix(name, tempSuffix):
		return bad("a name that unfinished files have")
	case runtime.GOOS == "windows" && badOnWindows(name):
		return bad("not a name on Windows")
	}
	return nil
}

// badOnWindows reports whether Windows would take a name for something else.
func badOnWindows(name string) bool {
	for i := range len(name) {
		if name[i] < ' ' || strings.IndexByte(`\:*?"<>|`, name[i]) >= 0 {
			return true
		}
	}
	stem, _, _ := strings.Cut(strings.ToUpper(name), ".")
	stem = strings.TrimRight(stem, " ")
	switch stem {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return true
	}
	if rest, ok := strings.CutPrefix(stem, "COM"); ok && len(rest) > 0 && len(rest) <= 2 {
		return true
	}
	if rest, ok := strings.CutPrefix(stem, "LPT"); ok && len(rest) > 0 && len(rest) <= 2 {
		return true
	}
	return strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ")
}

// staysInside reports whether a symbolic link in a directory so many levels
// below the destination leads to something beneath the destination, whatever
// other links there are which do so too. ".." counts at the beginning only: after
// the name of a link it would lead who knows where.
func staysInside(depth int, target []byte) bool {
	if len(target) == 0 || target[0] == '/' || bytes.IndexByte(target, 0) >= 0 {
		return false
	}
	if runtime.GOOS == "windows" && bytes.ContainsAny(target, `\:`) {
		return false
	}
	up := true
	for _, e := range strings.Split(string(target), "/") {
		switch {
		case e == "..":
			if depth--; !up || depth < 0 {
				return false
			}
		case e != "" && e != ".":
			up = false
		}
	}
	return true
}

const (
	tempPrefix = ".vsockrpc-"
	tempSuffix = ".part"
)

// tempName is what a file is called until it is whole: the same whenever the
// same transfer is tried again.
func tempName(transfer [16]byte, name string) string {
	sum := sha256.Sum256([]byte(name))
	return tempPrefix + hex.EncodeToString(transfer[:8]) + "-" + hex.EncodeToString(sum[:6]) + tempSuffix
}

// isTempName reports whether name is one of tempName, of whatever transfer.
func isTempName(name string) bool {
	return strings.HasPrefix(name, tempPrefix) && strings.HasSuffix(name, tempSuffix) && len(name) == len(tempPrefix)+16+1+12+len(tempSuffix)
}
