package account

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Where the guest's users and groups are.
const (
	PasswdFile = "/etc/passwd"
	GroupFile  = "/etc/group"
)

// UnknownError says that there is no such user or group.
type UnknownError struct {
	Kind string // "user" or "group"
	Name string
}

// Error says so.
func (e *UnknownError) Error() string { return fmt.Sprintf("no such %s: %q", e.Kind, e.Name) }

// Account is a user with what the user may.
type Account struct {
	Name   string // empty if the number has no name
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary, as initgroups(3) makes them
	Home   string
	Shell  string
}

// Files are the two files. The zero value is the guest's own.
type Files struct{ Passwd, Group string }

func (f Files) passwd() string {
	if f.Passwd == "" {
		return PasswdFile
	}
	return f.Passwd
}

func (f Files) group() string {
	if f.Group == "" {
		return GroupFile
	}
	return f.Group
}

// Find returns the account of a user and a group, each a name or a number. An
// empty user is this process's own, an empty group the user's. What is not found
// is an [*UnknownError].
func (f Files) Find(user, group string) (Account, error) {
	a, err := f.user(user)
	if err != nil {
		return Account{}, err
	}
	if group != "" {
		if a.GID, err = f.GroupID(group); err != nil {
			return Account{}, err
		}
	}
	a.Groups = []uint32{a.GID}
	if a.Name == "" {
		return a, nil
	}
	err = eachRecord(f.group(), 4, func(r []string) bool {
		gid, err := strconv.ParseUint(r[2], 10, 32)
		if err == nil && slices.Contains(strings.Split(r[3], ","), a.Name) && !slices.Contains(a.Groups, uint32(gid)) {
			a.Groups = append(a.Groups, uint32(gid))
		}
		return true
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Account{}, fmt.Errorf("read the groups: %w", err)
	}
	return a, nil
}

func (f Files) user(user string) (Account, error) {
	number, err := strconv.ParseUint(user, 10, 32)
	isNumber := err == nil && number != 1<<32-1
	own := user == ""
	if own {
		number, isNumber = uint64(os.Getuid()), true
	}
	a := Account{UID: uint32(number), GID: uint32(number), Home: "/", Shell: "/bin/sh"}
	if own {
		a.GID = uint32(os.Getgid())
	}
	found := false
	// A name comes first: a user may be called 1000.
	for _, byName := range []bool{true, false} {
		if found || byName && own || !byName && !isNumber {
			continue
		}
		// Without the file nobody has a name; numbers do without.
		_ = eachRecord(f.passwd(), 7, func(r []string) bool {
			uid, err1 := strconv.ParseUint(r[2], 10, 32)
			gid, err2 := strconv.ParseUint(r[3], 10, 32)
			if err1 != nil || err2 != nil || byName && r[0] != user || !byName && uid != number {
				return true
			}
			found = true
			a.Name, a.UID = r[0], uint32(uid)
			if r[5] != "" {
				a.Home = r[5]
			}
			if r[6] != "" {
				a.Shell = r[6]
			}
			if !own {
				a.GID = uint32(gid)
			}
			return false
		})
	}
	if !found && !isNumber {
		return Account{}, &UnknownError{"user", user}
	}
	return a, nil
}

// UserID returns the number of a user, given by name or number.
func (f Files) UserID(user string) (uint32, error) {
	a, err := f.user(user)
	if user == "" {
		err = &UnknownError{"user", user}
	}
	return a.UID, err
}

// GroupID returns the number of a group, given by name or number.
func (f Files) GroupID(group string) (uint32, error) {
	var gid uint64
	found := false
	err := eachRecord(f.group(), 4, func(r []string) bool {
		n, err := strconv.ParseUint(r[2], 10, 32)
		if err != nil || r[0] != group {
			return true
		}
		gid, found = n, true
		return false
	})
	if found {
		return uint32(gid), nil
	}
	if n, numErr := strconv.ParseUint(group, 10, 32); numErr == nil && n != 1<<32-1 {
		return uint32(n), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("read the groups: %w", err)
	}
	return 0, &UnknownError{"group", group}
}

// UserNames returns the name of each uid that has one, GroupNames of each gid.
// What cannot be read has no names.
func (f Files) UserNames() map[uint32]string { return names(f.passwd(), 7) }

// GroupNames returns the name of each gid that has one.
func (f Files) GroupNames() map[uint32]string { return names(f.group(), 4) }

func names(file string, fields int) map[uint32]string {
	names := make(map[uint32]string)
	_ = eachRecord(file, fields, func(r []string) bool {
		if id, err := strconv.ParseUint(r[2], 10, 32); err == nil && names[uint32(id)] == "" {
			names[uint32(id)] = r[0]
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
