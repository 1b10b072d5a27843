package guest

import (
	"fmt"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Sync is when copied files are made durable.
type Sync int

// The values of Sync.
const (
	// SyncBatch makes a file durable before it gets its name: a single one by
	// itself, those of a tree many at a time. It is the default.
	SyncBatch Sync = iota
	SyncEach       // each by itself
	SyncNone       // when the system likes
)

// CopyOptions say how CopyTo and CopyFrom copy. The zero value, or a nil pointer,
// copies directories with all in them, permissions and times of modification, and
// symbolic links as such. A file that is replaced hands its owner, permissions,
// extended attributes and access control list on, where the receiving user may set them.
type CopyOptions struct {
	// Archive keeps owners, where the receiving user may set them, extended
	// attributes and hard links.
	Archive bool
	// Modes gives files that are replaced the permissions of the source.
	Modes bool
	// InPlace writes into files that are there, once their contents have come whole:
	// they keep their inode and links, and a failure in the midst of that leaves half
	// a file. It does not go with Archive.
	InPlace bool
	// NoReplace leaves files alone that are there.
	NoReplace bool
	// Exclude leaves out files, and directories with all in them, that match one of
	// these patterns of path.Match: by their name or, of a pattern with a slash, by
	// their path below the source. At most 1000 patterns.
	Exclude []string
	// Delete removes, when all was copied and nothing failed, what is in directories
	// of the destination and not in those of the sources, but for what Exclude matches.
	Delete bool
	// Bandwidth bounds the contents that are sent, in bytes a second; 0: no bound.
	Bandwidth uint64
	// Each, if not nil, is called for each file, link and directory when it is sent, or
	// received, with its path below its source. It must return soon.
	Each func(path string)

	// Follow copies what symbolic links lead to.
	Follow bool
	// KeepSetuid keeps set-user-id and set-group-id bits.
	KeepSetuid bool
	// OutsideLinks lets CopyFrom make symbolic links that lead out of the
	// destination.
	OutsideLinks bool
	// Resume goes on from what an earlier copy of the same sources to the same
	// destination left, and leaves files alone that have the right size and time
	// of modification; Checksum compares their SHA-256 too. Directories that an
	// earlier copy did not leave unfinished keep their modes. After a lost
	// connection a copy goes on by itself, and does to what was there what it does
	// without a cut.
	Resume   bool
	Checksum bool
	Sync     Sync

	// MaxEntries and MaxBytes bound what CopyFrom takes from the guest; 0 means
	// ten million and 16 TiB.
	MaxEntries, MaxBytes uint64

	// Progress, if not nil, is called now and then with how far the copy is, and at the
	// end of one that succeeds with Bytes and Total the same. It is called by one
	// goroutine at a time and must return soon.
	Progress func(CopyProgress)
}

// CopyProgress is how far a copy is.
type CopyProgress struct {
	Files uint64 // begun
	Bytes uint64 // that the receiver has
	Total uint64 // bytes of the files begun
	Path  string // of the file under way, below its source; from a guest it may hold any character
}

// CopyResult is what a copy did, over all its connections.
type CopyResult struct {
	Files   uint64 // and links that were made
	Bytes   uint64 // in them; of a copy that failed, that the receiver took
	Skipped uint64 // were there already
	Failed  uint64
	Deleted uint64
	// SetuidDropped are files and directories without the set-user-id or set-group-id
	// bits that the source or the file that was replaced has: see KeepSetuid.
	SetuidDropped uint64
	Resumed       int // how many times a lost connection was re-established
}

// CopyError says that some files could not be copied. All others were.
type CopyError struct {
	Failed   uint64
	Failures []error // the first hundred
}

// Error returns the first failure and how many there are.
func (e *CopyError) Error() string {
	if len(e.Failures) == 0 {
		return fmt.Sprintf("%d files could not be copied", e.Failed)
	}
	if e.Failed <= 1 {
		return e.Failures[0].Error()
	}
	return fmt.Sprintf("%v (and %d more)", e.Failures[0], e.Failed-1)
}

// Unwrap returns the failures.
func (e *CopyError) Unwrap() []error { return e.Failures }

const maxFailures = 100

func (o *CopyOptions) message() *guestv1.TransferOptions {
	sync := guestv1.SyncPolicy_SYNC_POLICY_UNSPECIFIED
	switch o.Sync {
	case SyncEach:
		sync = guestv1.SyncPolicy_SYNC_POLICY_EACH
	case SyncNone:
		sync = guestv1.SyncPolicy_SYNC_POLICY_NONE
	}
	return &guestv1.TransferOptions{Archive: o.Archive, Follow: o.Follow, KeepSetuid: o.KeepSetuid, Checksum: o.Checksum, Sync: sync,
		Modes: o.Modes, InPlace: o.InPlace, NoReplace: o.NoReplace, Exclude: toBytes(o.Exclude), Crc: !o.Checksum}
}
