package archive

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// errThere says that a file is there, and is not to be replaced.
var errThere = errors.New("it is there already")

// mayReplace returns why what has a name in t must not be replaced by a file or link, or
// nil: only files and symbolic links are. A directory in the way is told later.
func (r *receiver) mayReplace(t *target, name string) error {
	if t.fresh {
		return nil
	}
	info, err := t.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return failed("stat", joinPath(t.path, name), err)
	case r.cfg.Options.GetNoReplace():
		return errThere
	case info.Mode().IsRegular() || info.IsDir() || info.Mode()&fs.ModeSymlink != 0:
		return nil
	}
	f := newFailure("create", joinPath(t.path, name), codes.FailedPrecondition, ReasonSpecial, "a %s is in the way", describe(info))
	f.Remedy = "remove it first, or write to it with a command"
	return f
}

// attributes gives a whole file, which has no name yet, its owner, mode and extended
// attributes: those of the file that it is to replace or, where there is none or the
// options say so, those of the source.
func (r *receiver) attributes(f *os.File, t *target, name string, e *guestv1.Entry) error {
	path := joinPath(t.path, name)
	o := r.cfg.Options
	mode := e.GetMode()
	if !o.GetArchive() && !t.fresh {
		old, err := t.root.OpenFile(name, lookFlags, 0)
		if err == nil {
			defer old.Close()
			info, err := old.Stat()
			if err != nil {
				return failed("stat", path, err)
			}
			if info.Mode().IsRegular() {
				return r.inherit(f, old, info, path, mode)
			}
		} else if onLinux && !errors.Is(err, fs.ErrNotExist) {
			return failed("open", path, err)
		}
	}
	if err := r.ownerAndXattrs(f, path, e); err != nil {
		return err
	}
	// After the owner, whose change takes set-user-id away.
	return r.chmod(f, mode, true)
}

// chmod sets the permissions, and counts bits that it must not set.
func (r *receiver) chmod(f *os.File, mode uint32, owner bool) error {
	keep := r.cfg.Options.GetKeepSetuid() && owner
	if mode&(modeSetuid|modeSetgid) != 0 && !keep {
		r.finished.SetuidDropped++
	}
	return f.Chmod(permissions(mode, keep))
}

// inherit gives a file the owner, mode and extended attributes of the one that it
// replaces, so that nobody can read it who could not read that.
func (r *receiver) inherit(f, old *os.File, info fs.FileInfo, path string, mode uint32) error {
	ownMode := !r.cfg.Options.GetModes()
	if ownMode {
		mode = LinuxMode(info.Mode())
	}
	owner, err := inheritOwner(f, info)
	if err != nil {
		return failed("chown", path, err)
	}
	if !owner.group {
		// What was the old group's is this one's only as far as it is everybody's.
		mode &^= 0o070
		mode |= mode & 0o007 << 3 & (LinuxMode(info.Mode()) & 0o070)
	}
	if err := r.chmod(f, mode, owner.user && owner.group); err != nil {
		return err
	}
	if err := inheritXattrs(f, old, ownMode && owner.group); err != nil {
		return failed("setxattr", path, err)
	}
	return nil
}

// inherited says what of an owner a file could be given.
type inherited struct{ user, group bool }

// writeInto writes the contents of a whole file into the one that has its name, if that
// is a file, which so keeps its inode. It reports whether there was one.
func (r *receiver) writeInto(p *placed) (done bool, err error) {
	to, err := p.in.root.OpenFile(p.name, os.O_WRONLY|openFlags, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, failed("open", p.path(), err)
	}
	defer to.Close()
	info, err := to.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return false, err
	}
	from, err := p.in.root.OpenFile(p.temp, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return false, failed("open", p.path(), err)
	}
	defer from.Close()
	when, err := from.Stat()
	if err == nil {
		err = to.Truncate(0)
	}
	if err == nil {
		_, err = io.Copy(to, from)
	}
	if err == nil && info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 && !r.cfg.Options.GetKeepSetuid() {
		err = to.Chmod(info.Mode() &^ (fs.ModeSetuid | fs.ModeSetgid))
	}
	if err == nil {
		err = setTimes(p.in.root, to, p.name, when.ModTime())
	}
	if err == nil && r.cfg.Options.GetSync() != guestv1.SyncPolicy_SYNC_POLICY_NONE {
		err = to.Sync()
	}
	if err != nil {
		f := failed("write", p.path(), err)
		f.Text += " (into the file that was there, which may have half of it)"
		return true, f
	}
	return true, nil
}
