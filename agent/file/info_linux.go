package file

import (
	"io/fs"
	"syscall"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// names are the names of users and groups, read when the first is asked for.
type names struct {
	s             *Server
	users, groups map[uint32]string
}

func (n *names) user(id uint32) string {
	if n.users == nil {
		n.users = n.s.accounts.UserNames()
	}
	return n.users[id]
}

func (n *names) group(id uint32) string {
	if n.groups == nil {
		n.groups = n.s.accounts.GroupNames()
	}
	return n.groups[id]
}

// fileInfo describes a file.
func (n *names) fileInfo(path string, info fs.FileInfo) *guestv1.FileInfo {
	m := &guestv1.FileInfo{Path: []byte(path), Mode: archive.LinuxMode(info.Mode()), Size: uint64(info.Size())}
	m.ModifiedUnixNanos, m.ModifiedUnixSeconds = archive.WireTime(info.ModTime())
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return m
	}
	m.AccessedUnixNanos, m.AccessedUnixSeconds = archive.WireTime(time.Unix(st.Atim.Unix()))
	m.ChangedUnixNanos, m.ChangedUnixSeconds = archive.WireTime(time.Unix(st.Ctim.Unix()))
	m.Uid, m.Gid, m.Links, m.Inode, m.Device = st.Uid, st.Gid, uint64(st.Nlink), st.Ino, uint64(st.Dev)
	m.Blocks, m.DeviceNumber = uint64(st.Blocks), uint64(st.Rdev)
	m.User, m.Group = []byte(n.user(st.Uid)), []byte(n.group(st.Gid))
	return m
}
