//go:build linux

package process

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
)

// Where the guest's users and groups are. Names that only a directory service
// knows are not found here; their numbers work.
const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
)

// account is the user that a session runs as.
type account struct {
	name   string // empty if the number has no name
	uid    uint32
	gid    uint32
	groups []uint32 // supplementary, as initgroups(3) makes them
	home   string
	shell  string
}

// accounts looks up users and groups in the two files of passwd(5) and
// group(5).
type accounts struct {
	passwd, group string
}

// find returns the account for the user and group of a spec, each a name or a
// number. An empty user is the agent's own; an empty group the user's.
func (a accounts) find(user, group string) (account, error) {
	acc, err := a.findUser(user)
	if err != nil {
		return account{}, err
	}
	if group != "" {
		gid, err := a.findGroup(group)
		if err != nil {
			return account{}, err
		}
		acc.gid = gid
	}
	acc.groups = []uint32{acc.gid}
	if acc.name == "" {
		return acc, nil
	}
	err = eachRecord(a.group, 4, func(f []string) bool {
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err == nil && slices.Contains(strings.Split(f[3], ","), acc.name) && !slices.Contains(acc.groups, uint32(gid)) {
			acc.groups = append(acc.groups, uint32(gid))
		}
		return true
	})
	if err != nil && !os.IsNotExist(err) {
		return account{}, fmt.Errorf("read the groups: %w", err)
	}
	return acc, nil
}

func (a accounts) findUser(user string) (account, error) {
	number, err := strconv.ParseUint(user, 10, 32)
	isNumber := err == nil && number != 1<<32-1
	own := user == ""
	if own {
		number, isNumber = uint64(os.Geteuid()), true
	}
	acc := account{uid: uint32(number), gid: uint32(number), home: "/", shell: "/bin/sh"}
	if own {
		acc.gid = uint32(os.Getegid())
	}
	found := false
	match := func(f []string, byName bool) bool {
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil || byName && f[0] != user || !byName && uid != number {
			return true
		}
		found = true
		acc.name, acc.uid, acc.home = f[0], uint32(uid), f[5]
		if !own {
			acc.gid = uint32(gid)
		}
		if f[6] != "" {
			acc.shell = f[6]
		}
		if acc.home == "" {
			acc.home = "/"
		}
		return false
	}
	// A name comes first: a user may be called 1000.
	if !own {
		err = eachRecord(a.passwd, 7, func(f []string) bool { return match(f, true) })
	}
	if !found && isNumber {
		err = eachRecord(a.passwd, 7, func(f []string) bool { return match(f, false) })
	}
	if found || isNumber {
		return acc, nil
	}
	f := newFault(codes.FailedPrecondition, reasonNoUser, "no such user: %q", user).On("lookup", user, err)
	return account{}, f.Hint("name a user of " + passwdFile + ", or a number")
}

func (a accounts) findGroup(group string) (uint32, error) {
	var gid uint32
	found := false
	err := eachRecord(a.group, 4, func(f []string) bool {
		n, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil || f[0] != group {
			return true
		}
		gid, found = uint32(n), true
		return false
	})
	if found {
		return gid, nil
	}
	if n, err := strconv.ParseUint(group, 10, 32); err == nil && n != 1<<32-1 {
		return uint32(n), nil
	}
	f := newFault(codes.FailedPrecondition, reasonNoGroup, "no such group: %q", group).On("lookup", group, err)
	return 0, f.Hint("name a group of " + groupFile + ", or a number")
}

// uidNames returns the name of each uid that has one.
func (a accounts) uidNames() map[uint32]string {
	names := make(map[uint32]string)
	// Without the file there are no names, which is an answer too.
	_ = eachRecord(a.passwd, 7, func(f []string) bool {
		if uid, err := strconv.ParseUint(f[2], 10, 32); err == nil && names[uint32(uid)] == "" {
			names[uint32(uid)] = f[0]
		}
		return true
	})
	return names
}

// eachRecord calls f with the fields of every line that has so many, until f
// returns false.
func eachRecord(name string, fields int, f func([]string) bool) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20) // a group may have many members
	for lines.Scan() {
		if record := strings.Split(lines.Text(), ":"); len(record) == fields && !f(record) {
			return nil
		}
	}
	return lines.Err()
}
