package archive

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// target is a directory that is written to. It stays open while it is on the
// stack of the receiver, while files in it wait to be renamed, and while a
// directory in it is open. When the last of these ends it gets its mode and
// time, which writing to it would have changed.
type target struct {
	root  *os.Root // nil: it could not be made, and what is below it is lost
	path  string   // for errors
	name  string   // in above
	above *target
	refs  int

	entry   *guestv1.Entry // its mode and time alone; nil: neither is to be set
	ownMode bool           // of these, the mode is not to be set
	setuid  bool
	setgid  bool // it has the bit, which a directory made in it has too
	existed bool
	fresh   bool              // it was made by this try: nothing is in it that is to be kept
	last    string            // the last name
	folded  map[string]string // the names, by their folded form
	failure *Failure          // what went wrong when it was left
}

func (t *target) hold() *target {
	t.refs++
	return t
}

func (t *target) release() {
	if t.refs--; t.refs > 0 {
		return
	}
	if t.root != nil && t.entry != nil {
		var err error
		if !t.ownMode {
			err = t.root.Chmod(".", permissions(t.entry.Mode, t.setuid))
		}
		if err == nil {
			err = setDirTimes(t.root, modified(t.entry))
		}
		if err != nil && t.above != nil && !(t.existed && errors.Is(err, fs.ErrPermission)) {
			t.above.failure = failed("set attributes", t.path, err)
		}
	}
	if t.root != nil {
		t.root.Close()
	}
	if t.above != nil {
		if t.failure != nil && t.above.failure == nil {
			t.above.failure = t.failure
		}
		t.above.release()
	}
}

// permissions returns the permissions of a mode, without what gives a program
// the rights of its owner unless that is asked for.
func permissions(mode uint32, setuid bool) fs.FileMode {
	if !setuid {
		mode &^= modeSetuid | modeSetgid
	}
	return FileMode(mode &^ modeType)
}

// staleAfter is how old an unfinished file must be before any transfer into the
// same directory removes it. Until then its own transfer may go on with it.
const staleAfter = 24 * time.Hour

// maxLooked bounds the names that are looked through for unfinished files.
const maxLooked = 10_000

// clean removes unfinished files that nobody will come back to.
func (t *target) clean(cfg *ReceiveConfig) {
	d, err := t.root.Open(".")
	if err != nil {
		return
	}
	defer d.Close()
	names, err := d.Readdirnames(maxLooked)
	if err != nil {
		return
	}
	own := tempName(cfg.Transfer, "")[:len(tempPrefix)+16]
	for _, name := range names {
		if !isTempName(name) {
			continue
		}
		info, err := t.root.Lstat(name)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		old := time.Since(info.ModTime()) > staleAfter
		if !old && (cfg.Resume || !strings.HasPrefix(name, own)) {
			continue
		}
		f, err := t.root.OpenFile(name, os.O_RDWR|openFlags, 0)
		if err != nil {
			continue
		}
		if lock(f) == nil {
			t.root.Remove(name)
		}
		f.Close()
	}
}

// enter makes the last directory of the stack the one that path's last element
// is to be in, and returns it with that name.
func (r *receiver) enter(e *guestv1.Entry) (*target, string, error) {
	if int(e.GetSource()) >= len(r.names) || e.GetSource() < r.source && !r.cfg.Trusted {
		return nil, "", protocolFailure("an entry of source %d", e.GetSource())
	}
	below, err := splitPath(e.GetPath())
	if err != nil {
		return nil, "", err
	}
	path := below
	if name := r.names[e.GetSource()]; name != "" {
		path = append([]string{name}, below...)
	}
	if e.GetSource() != r.source {
		r.source = e.GetSource()
		r.popTo(1)
		r.base.last = ""
	}
	if len(path) == 0 {
		r.popTo(1)
		return nil, "", nil // the destination itself
	}
	parents, name := path[:len(path)-1], path[len(path)-1]
	same := 0
	for same < len(parents) && same+1 < len(r.stack) && r.stack[same+1].name == parents[same] {
		same++
	}
	r.popTo(same + 1)
	for _, p := range parents[same:] {
		if !r.cfg.Trusted {
			return nil, "", protocolFailure("%q comes before its directory", e.GetPath())
		}
		if err := r.descend(p, nil); err != nil {
			return nil, "", err
		}
	}
	t := r.stack[len(r.stack)-1]
	if t.root != nil && e.Mode&modeType != modeDir {
		if err := r.cfg.Denied.file(t.root, name); err != nil {
			return nil, "", err
		}
		if err := r.mayReplace(t, name); err != nil {
			return nil, "", err
		}
	}
	if !r.cfg.Trusted {
		if name <= t.last {
			return nil, "", protocolFailure("%q comes after %q in a directory", name, t.last)
		}
		t.last = name
	} else if r.waitingAt[joinPath(t.path, name)] {
		// An archive may have a name twice: the later one counts.
		if err := r.flush(false); err != nil {
			return nil, "", err
		}
	}
	return t, name, nil
}

// popTo leaves the directories of the stack beyond the first n.
func (r *receiver) popTo(n int) {
	for len(r.stack) > n {
		r.pop()
	}
}

func (r *receiver) pop() {
	t := r.stack[len(r.stack)-1]
	r.stack = r.stack[:len(r.stack)-1]
	t.release()
	if f := r.base.failure; f != nil {
		r.base.failure = nil
		r.done(Done{Failure: f})
	}
}

// descend makes or opens a directory in the last one of the stack, and puts it
// there. If that fails what is below it is lost, which the error says once.
func (r *receiver) descend(name string, e *guestv1.Entry) error {
	above := r.stack[len(r.stack)-1]
	t := &target{path: joinPath(above.path, name), name: name, above: above.hold(), refs: 1, setuid: r.cfg.Options.GetKeepSetuid()}
	if e != nil {
		t.entry = &guestv1.Entry{Mode: e.Mode, ModifiedUnixNanos: e.ModifiedUnixNanos, ModifiedUnixSeconds: e.ModifiedUnixSeconds}
	}
	r.stack = append(r.stack, t)
	if above.root == nil {
		return errLost
	}
	if err := r.cfg.Denied.file(above.root, name); err != nil {
		return err
	}
	// Until it has all that is to be in it, its owner may write to it.
	err := above.root.Mkdir(name, 0o700)
	made := err == nil
	t.setgid, t.fresh = above.setgid, made
	if made && e.GetMode()&(modeSetuid|modeSetgid) != 0 && !t.setuid {
		r.finished.SetuidDropped++
	}
	unfinished := false
	if errors.Is(err, fs.ErrExist) {
		info, statErr := above.root.Lstat(name)
		switch {
		case statErr != nil:
			return failed("stat", t.path, statErr)
		case !info.IsDir():
			return newFailure("mkdir", t.path, codes.FailedPrecondition, ReasonNotDirectory, "a %s is in the way", describe(info))
		}
		t.setgid, unfinished = info.Mode()&fs.ModeSetgid != 0, r.cfg.Resume && (isUnfinished(info) || e != nil && r.cfg.Memory.has(e.Source, e.Path))
		err = nil
	}
	if err != nil {
		return failed("mkdir", t.path, err)
	}
	if t.root, err = above.root.OpenRoot(name + asDir); err != nil {
		return failed("open", t.path, err)
	}
	if made && e != nil {
		r.cfg.Memory.add(e.Source, e.Path)
		mode := unfinishedMode
		if t.setgid {
			mode |= fs.ModeSetgid
		}
		if err := t.root.Chmod(".", mode); err != nil {
			return failed("mkdir", t.path, err)
		}
	}
	if made && r.isMarkable() && len(r.stack) == 2 {
		// If this fails, all that is lost is that it can be gone on with.
		if f, err := t.root.OpenFile(r.markName(), os.O_WRONLY|os.O_CREATE|os.O_EXCL|openFlags, 0o600); err == nil {
			f.Close()
		}
	}
	switch {
	case !made:
		if !r.isWaitingIn(t.path) {
			t.clean(r.cfg)
		}
		if !unfinished && !r.cfg.Options.GetArchive() {
			// It is merged with, and stays as it is. If it was made by an earlier copy,
			// which this one is to complete, it has that one's time again.
			t.ownMode = true
			if !r.cfg.Skip {
				t.entry = nil
			}
		}
		t.existed = true
	case e == nil:
		err = t.root.Chmod(".", 0o755)
	}
	if err != nil {
		return failed("mkdir", t.path, err)
	}
	return nil
}

// unfinishedMode is the mode of a directory that a transfer has made, until it has all
// that is to be in it. Another try of the transfer, also of another process, gives such
// a directory its mode and time, as one that it remembers to have made; a directory that was there before keeps its own, whatever the sender says.
const unfinishedMode = 0o700 | fs.ModeSticky

func isUnfinished(dir fs.FileInfo) bool {
	return dir.Mode()&(fs.ModePerm|fs.ModeSticky) == unfinishedMode
}

// errLost says that an entry is below a directory that could not be made.
var errLost = errors.New("its directory could not be made")

func describe(info fs.FileInfo) string {
	switch {
	case info.IsDir():
		return "directory"
	case info.Mode().IsRegular():
		return "file"
	case info.Mode()&fs.ModeSymlink != 0:
		return "symbolic link"
	}
	return kindOf(LinuxMode(info.Mode()))
}
