package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// entry makes what needs nothing more than its entry.
func (r *receiver) entry(e *guestv1.Entry) error {
	if err := r.next(e.GetNumber()); err != nil {
		return err
	}
	if err := r.keepAsked(e); err != nil {
		return err
	}
	r.at(e)
	r.bytes += uint64(len(e.Contents))
	if err := r.consume(uint64(len(e.Contents))); err != nil {
		return err
	}
	t, name, err := r.enter(e)
	if err == nil && t != nil {
		err = r.make(t, name, e)
	} else if errors.Is(err, errLost) {
		err = nil
		r.countFailed(e.Source, e.Path)
	} else if errors.Is(err, errThere) {
		err = nil
		r.countSkipped(e)
	}
	if err == nil {
		r.done(Done{Bytes: uint64(len(e.Contents)), Files: 1, Path: string(e.Path)})
		return nil
	}
	if f, ok := errors.AsType[*Failure](err); ok && f.Reason == ReasonProtocol {
		return err
	}
	return r.failedEntry(e, err)
}

// make makes one file, link or directory in t.
func (r *receiver) make(t *target, name string, e *guestv1.Entry) error {
	isDir := e.Mode&modeType == modeDir
	if t.root == nil {
		if isDir {
			_ = r.descend(name, e) // puts on the stack what is lost
		}
		r.countFailed(e.Source, e.Path)
		return nil
	}
	if err := r.fold(t, name); err != nil {
		return err
	}
	switch {
	case e.HardLink != nil:
		return r.makeHardLink(t, name, e)
	case isDir:
		if err := r.descend(name, e); err != nil {
			return err
		}
		if d := r.stack[len(r.stack)-1]; d.entry != nil && r.cfg.Options.GetArchive() {
			return r.directoryAttributes(d, e)
		}
		return nil
	case e.Mode&modeType == modeLink:
		return r.makeSymlink(t, name, e)
	case e.Mode&modeType == modeRegular:
		return r.makeSmall(t, name, e)
	}
	return newFailure("create", joinPath(t.path, name), codes.PermissionDenied, ReasonSpecial, "a %s is not made", kindOf(e.Mode))
}

// maxFolded bounds the bytes of names that are remembered to find collisions.
const maxFolded = 16 << 20

// fold reports a name that this system would take for another one.
func (r *receiver) fold(t *target, name string) error {
	if !r.cfg.FoldNames {
		return nil
	}
	if t.folded == nil {
		t.folded = make(map[string]string)
	}
	key := strings.ToLower(name)
	if other, ok := t.folded[key]; ok && other != name {
		return newFailure("create", joinPath(t.path, name), codes.AlreadyExists, ReasonCollision, "here it has the same name as %s", other)
	}
	if r.foldedHeld += len(key) + len(name); r.foldedHeld > maxFolded {
		return newFailure("create", joinPath(t.path, name), codes.ResourceExhausted, ReasonTooMany, "too many names to tell collisions in: copy fewer directories at once")
	}
	t.folded[key] = name
	return nil
}

// directoryAttributes sets owner and extended attributes of a directory.
func (r *receiver) directoryAttributes(d *target, e *guestv1.Entry) error {
	f, err := d.root.Open(".")
	if err != nil {
		return failed("open", d.path, err)
	}
	defer f.Close()
	return r.ownerAndXattrs(f, d.path, e)
}

func (r *receiver) ownerAndXattrs(f *os.File, path string, e *guestv1.Entry) error {
	if !r.cfg.Options.GetArchive() {
		return nil
	}
	if r.cfg.Owner != nil {
		uid, gid := r.cfg.Owner(e)
		if err := f.Chown(uid, gid); err != nil {
			return failed("chown", path, err)
		}
	}
	for _, x := range e.Xattrs {
		if err := setXattr(f, string(x.Name), x.Value); err != nil {
			return failed("setxattr", path, err)
		}
	}
	return nil
}

// makeHardLink makes another name of a file that came before.
func (r *receiver) makeHardLink(t *target, name string, e *guestv1.Entry) error {
	path := joinPath(t.path, name)
	if int(e.HardLink.GetSource()) >= len(r.names) {
		return protocolFailure("a hard link to source %d", e.HardLink.GetSource())
	}
	old, err := splitPath(e.HardLink.GetPath())
	if err != nil {
		return err
	}
	if first := r.names[e.HardLink.GetSource()]; first != "" {
		old = append([]string{first}, old...)
	}
	if len(old) == 0 {
		return protocolFailure("a hard link to the destination")
	}
	// Beneath the destination, whatever links are on the way.
	from := strings.Join(old, "/")
	if r.isWaiting(e.HardLink) {
		if err := r.flush(false); err != nil {
			return err
		}
	}
	if err := r.cfg.Denied.file(r.base.root, from); err != nil {
		return err
	}
	if info, err := r.base.root.Lstat(from); err != nil {
		return failed("link", path, err)
	} else if !info.Mode().IsRegular() {
		return newFailure("link", path, codes.FailedPrecondition, ReasonSpecial, "%s is a %s", from, describe(info))
	}
	to := func(name string) string {
		var names []string
		for _, d := range r.stack[1:] {
			names = append(names, d.name)
		}
		return strings.Join(append(names, name), "/")
	}
	err = r.base.root.Link(from, to(name))
	if errors.Is(err, fs.ErrExist) {
		temp := tempName(r.cfg.Transfer, name)
		t.root.Remove(temp)
		if err = r.base.root.Link(from, to(temp)); err == nil {
			err = t.root.Rename(temp, name)
			t.root.Remove(temp) // of two names of one file rename does nothing
		}
	}
	if err != nil {
		return failed("link", path, err)
	}
	r.countFile(e.Source, e.Path, 0)
	return nil
}

// makeSymlink makes a symbolic link, in place of another file if need be.
func (r *receiver) makeSymlink(t *target, name string, e *guestv1.Entry) error {
	path := joinPath(t.path, name)
	target := string(e.LinkTarget)
	if len(target) == 0 || len(target) > maxTarget || strings.ContainsRune(target, 0) {
		return newFailure("symlink", path, codes.InvalidArgument, ReasonBadName, "it leads to a name that cannot be")
	}
	if !r.cfg.Trusted && !r.cfg.OutsideLinks {
		if f := outsideLink(len(r.stack)-1, path, e.LinkTarget); f != nil {
			return f
		}
	}
	err := t.root.Symlink(target, name)
	if errors.Is(err, fs.ErrExist) {
		if old, readErr := t.root.Readlink(name); readErr == nil && old == target {
			r.countSkipped(e)
			return nil
		}
		temp := tempName(r.cfg.Transfer, name)
		t.root.Remove(temp)
		if err = t.root.Symlink(target, temp); err == nil {
			if err = t.root.Rename(temp, name); err != nil {
				t.root.Remove(temp)
			}
		}
	}
	if err == nil && r.cfg.Options.GetArchive() && r.cfg.Owner != nil {
		uid, gid := r.cfg.Owner(e)
		err = chownLink(t.root, name, uid, gid)
	}
	if err == nil {
		err = setLinkTimes(t.root, name, modified(e))
	}
	if err != nil {
		return failed("symlink", path, err)
	}
	r.countFile(e.Source, e.Path, 0)
	return nil
}

// makeSmall makes a file whose contents are in its entry.
func (r *receiver) makeSmall(t *target, name string, e *guestv1.Entry) error {
	path := joinPath(t.path, name)
	if !hasContents(e) {
		return hashMismatch(path)
	}
	f, err := r.createTemp(t, name)
	if err != nil {
		return err
	}
	if len(e.Contents) > 0 {
		if n, err := f.Write(e.Contents); err != nil {
			f.Close()
			t.root.Remove(tempName(r.cfg.Transfer, name))
			return writeFailed(path, uint64(n), err)
		}
	}
	return r.complete(f, t, name, e)
}

func hashMismatch(path string) *Failure {
	f := newFailure("write", path, codes.DataLoss, ReasonHashMismatch, "what came is not what was sent: its hash is another")
	f.Remedy = "copy it again"
	return f
}

func writeFailed(path string, written uint64, err error) *Failure {
	f := failed("write", path, err)
	wrote := *f
	wrote.Text += fmt.Sprintf(" (after %d bytes)", written)
	return &wrote
}

// createTemp makes the new file that name is written to first.
func (r *receiver) createTemp(t *target, name string) (*os.File, error) {
	temp := tempName(r.cfg.Transfer, name)
	// With openFlags os finds the file in non-blocking mode, and need not set that and,
	// since a file cannot be polled, take it back: four system calls.
	const flags = os.O_RDWR | os.O_CREATE | os.O_EXCL | openFlags
	f, err := t.root.OpenFile(temp, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if old, openErr := t.root.OpenFile(temp, os.O_RDWR|openFlags, 0); openErr == nil {
			openErr = lock(old)
			old.Close()
			if openErr != nil {
				return nil, newFailure("create", joinPath(t.path, name), codes.Aborted, ReasonBusy, "another copy is writing it")
			}
		}
		t.root.Remove(temp)
		f, err = t.root.OpenFile(temp, flags, 0o600)
	}
	if err != nil {
		return nil, failed("create", joinPath(t.path, name), err)
	}
	return f, nil
}

// complete gives a whole file its attributes and, at once or with the next
// batch, its name. It takes over f.
func (r *receiver) complete(f *os.File, t *target, name string, e *guestv1.Entry) error {
	path := joinPath(t.path, name)
	temp := tempName(r.cfg.Transfer, name)
	r.single = len(r.names) == 1 && len(e.Path) == 0
	policy := r.cfg.Options.GetSync()
	each := policy == guestv1.SyncPolicy_SYNC_POLICY_EACH || policy == guestv1.SyncPolicy_SYNC_POLICY_UNSPECIFIED && (r.single || !hasSyncTree)
	err := r.attributes(f, t, name, e)
	if err == nil {
		err = setTimes(t.root, f, temp, modified(e))
	}
	if err == nil && each {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		t.root.Remove(temp)
		return failed("write", path, err)
	}
	p := newPlaced(e, t, temp, name)
	if each || policy == guestv1.SyncPolicy_SYNC_POLICY_NONE {
		err := r.rename(p)
		if err == nil && each {
			err = syncDir(t)
		}
		t.release()
		if err == nil {
			r.countFile(e.Source, e.Path, e.Size)
		}
		return err
	}
	return r.wait(p)
}
