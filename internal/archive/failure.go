package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// The stable words of failures with files (ErrorDetail.reason).
const (
	ReasonNotFound     = "not-found"
	ReasonExists       = "exists"
	ReasonNotPermitted = "not-permitted"
	ReasonDenied       = "denied"
	ReasonReadOnly     = "read-only"
	ReasonDiskFull     = "disk-full"
	ReasonTooLarge     = "file-too-large"
	ReasonNameTooLong  = "name-too-long"
	ReasonNotDirectory = "not-a-directory"
	ReasonIsDirectory  = "is-a-directory"
	ReasonNotEmpty     = "not-empty"
	ReasonLinkLoop     = "link-loop"
	ReasonSpecial      = "special-file"
	ReasonNoFiles      = "files-exhausted"
	ReasonBusy         = "busy"
	ReasonUnsupported  = "unsupported"
	ReasonBadName      = "bad-name"
	ReasonLinkOutside  = "link-outside"
	ReasonCollision    = "name-collision"
	ReasonChanged      = "file-changed"
	ReasonHashMismatch = "hash-mismatch"
	ReasonProtocol     = "protocol"
	ReasonTooMany      = "too-many-entries"
	ReasonTooManyBytes = "too-many-bytes"
	ReasonTooDeep      = "too-deep"
	ReasonBadArchive   = "bad-archive"
	ReasonIO           = "input-output"
	ReasonFailed       = "failed"
)

// Failure is what went wrong with one file, or, as an error of Send and Receive,
// what ended a transfer. It is not changed after it was made.
type Failure struct {
	Op     string // such as "open"
	Path   string
	Code   codes.Code
	Reason string // a stable word
	Errno  uint32 // Linux's number, or 0
	Text   string // what happened, with the path
	Remedy string
	err    error
}

// Error returns the text.
func (f *Failure) Error() string { return f.Text }

// Unwrap returns the cause, or nil.
func (f *Failure) Unwrap() error { return f.err }

// newFailure makes a failure that the kernel knows nothing of.
func newFailure(op, path string, code codes.Code, reason, format string, args ...any) *Failure {
	return &Failure{Op: op, Path: path, Code: code, Reason: reason, Text: op + " " + path + ": " + fmt.Sprintf(format, args...)}
}

// changedFailure says that the file at path, on the sender's side, was written to
// meanwhile.
func changedFailure(path string) *Failure {
	f := newFailure("read", path, codes.Aborted, ReasonChanged,
		"it changed while it was read: its size or time is another than at the start, and the copy may be part old, part new")
	f.Remedy = "copy it again once nobody writes to it, or copy a snapshot of it"
	return f
}

// protocolFailure says that the other side broke the protocol.
func protocolFailure(format string, args ...any) *Failure {
	return &Failure{Code: codes.DataLoss, Reason: ReasonProtocol, Text: "the other side broke the protocol: " + fmt.Sprintf(format, args...),
		Remedy: "it has a fault or is hostile; compare the versions of both sides"}
}

// failed makes a failure of what the kernel said of op on path. One that is a
// Failure already stays as it is.
func failed(op, path string, err error) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	f := &Failure{Op: op, Path: path, err: err}
	f.Code, f.Reason, f.Remedy = Classify(err)
	cause := err
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		cause = pe.Err
	} else if le, ok := errors.AsType[*os.LinkError](err); ok {
		cause = le.Err
	}
	f.Text = op + " " + path + ": " + cause.Error()
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		f.Errno = linuxErrno(errno)
	}
	return f
}

// fatal reports whether a failure to write would meet every further file too.
func (f *Failure) fatal() bool {
	switch f.Reason {
	case ReasonDiskFull, ReasonReadOnly, ReasonIO, ReasonProtocol, ReasonTooMany, ReasonTooManyBytes:
		return true
	}
	return false
}

// message returns f as it is sent.
func (f *Failure) message(entry uint64) *guestv1.FileFailure {
	return &guestv1.FileFailure{Entry: entry, Path: []byte(f.Path), Message: strings.ToValidUTF8(f.Text, "\uFFFD"), Code: uint32(f.Code),
		Reason: f.Reason, Errno: f.Errno, Operation: f.Op}
}

// FailureMessage returns err, of op on path, as it is sent.
func FailureMessage(op, path string, err error) *guestv1.FileFailure {
	return failed(op, path, err).message(0)
}

// FailureOf returns what a message says, in memory of its own. Its texts are of the
// other side, and cut where they are longer than any that is meant.
func FailureOf(m *guestv1.FileFailure) *Failure {
	const maxText, maxWord = 8 << 10, 64
	code := codes.Code(m.GetCode())
	if code == codes.OK || code > codes.Unauthenticated {
		code = codes.Unknown
	}
	return &Failure{Op: clip(m.GetOperation(), maxWord), Path: clip(string(m.GetPath()), maxPath), Code: code,
		Reason: clip(m.GetReason(), maxWord), Errno: m.GetErrno(), Text: clip(m.GetMessage(), maxText)}
}

// clip returns a copy of at most so many bytes of s.
func clip(s string, most int) string { return strings.Clone(s[:min(len(s), most)]) }

// errnos says what each errno means. The first that matches counts.
var errnos = []struct {
	errno  syscall.Errno
	number uint32 // Linux's
	code   codes.Code
	reason string
	remedy string
}{
	{syscall.ENOENT, 2, codes.NotFound, ReasonNotFound, ""},
	{syscall.EEXIST, 17, codes.AlreadyExists, ReasonExists, ""},
	{syscall.EACCES, 13, codes.PermissionDenied, ReasonNotPermitted, "name a user who has the right"},
	{syscall.EPERM, 1, codes.PermissionDenied, ReasonNotPermitted, "name a user who has the right"},
	{syscall.EROFS, 30, codes.FailedPrecondition, ReasonReadOnly, "the file system is mounted read-only"},
	{syscall.ENOSPC, 28, codes.ResourceExhausted, ReasonDiskFull, "make room on the file system, or name another"},
	{syscall.EDQUOT, 122, codes.ResourceExhausted, ReasonDiskFull, "the user's quota is used up"},
	{syscall.EFBIG, 27, codes.ResourceExhausted, ReasonTooLarge, "the file system, or a limit of the process, allows no larger file"},
	{syscall.ENAMETOOLONG, 36, codes.InvalidArgument, ReasonNameTooLong, ""},
	{syscall.ENOTDIR, 20, codes.FailedPrecondition, ReasonNotDirectory, ""},
	{syscall.EISDIR, 21, codes.FailedPrecondition, ReasonIsDirectory, ""},
	{syscall.ENOTEMPTY, 39, codes.FailedPrecondition, ReasonNotEmpty, "remove what is in it too"},
	{syscall.ELOOP, 40, codes.FailedPrecondition, ReasonLinkLoop, ""},
	{syscall.ENXIO, 6, codes.FailedPrecondition, ReasonSpecial, "it is a device, a FIFO or a socket"},
	{syscall.EMFILE, 24, codes.ResourceExhausted, ReasonNoFiles, ""},
	{syscall.ENFILE, 23, codes.ResourceExhausted, ReasonNoFiles, ""},
	{syscall.EBUSY, 16, codes.FailedPrecondition, ReasonBusy, ""},
	{syscall.ETXTBSY, 26, codes.FailedPrecondition, ReasonBusy, "it is a program that runs"},
	{syscall.ENOTSUP, 95, codes.Unimplemented, ReasonUnsupported, "the file system cannot do it"},
	{syscall.ENOSYS, 38, codes.Unimplemented, ReasonUnsupported, ""},
	{syscall.EXDEV, 18, codes.FailedPrecondition, ReasonUnsupported, "both must be on one file system"},
	{syscall.EINVAL, 22, codes.InvalidArgument, ReasonFailed, ""},
	{syscall.EIO, 5, codes.DataLoss, ReasonIO, ""},
	{syscall.EMLINK, 31, codes.ResourceExhausted, ReasonFailed, "the file has as many links as can be"},
	{syscall.ENOMEM, 12, codes.ResourceExhausted, ReasonFailed, ""},
}

// Classify says what an error with a file means: a gRPC code, a stable word, and
// what to do about it, which may be empty.
func Classify(err error) (code codes.Code, reason, remedy string) {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		for _, e := range errnos {
			if e.errno == errno {
				return e.code, e.reason, e.remedy
			}
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return codes.NotFound, ReasonNotFound, ""
	case errors.Is(err, fs.ErrExist):
		return codes.AlreadyExists, ReasonExists, ""
	case errors.Is(err, fs.ErrPermission):
		return codes.PermissionDenied, ReasonNotPermitted, ""
	case strings.HasSuffix(err.Error(), "path escapes from parent"):
		// The os package has no value for it.
		return codes.FailedPrecondition, ReasonLinkOutside, "a link leads out of the directory that bounds it"
	}
	return codes.Unknown, ReasonFailed, ""
}

// linuxErrno returns Linux's number of an errno, or 0 if that is not known.
func linuxErrno(errno syscall.Errno) uint32 {
	if onLinux {
		return uint32(errno)
	}
	for _, e := range errnos {
		if e.errno == errno {
			return e.number
		}
	}
	return 0
}
