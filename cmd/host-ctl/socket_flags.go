package main

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/vsockrpc/vsockrpc/guest"
)

// socketFlags say what the files of Unix sockets that are listened on have.
type socketFlags struct {
	mode, owner string

	parsed *fs.FileMode
}

// parse parses the mode.
func (f *socketFlags) parse() error {
	if f.mode == "" {
		return nil
	}
	n, err := strconv.ParseUint(f.mode, 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		return usageError{fmt.Errorf("--socket-mode=%s: want an octal number from 1 to 0777", f.mode)}
	}
	mode := fs.FileMode(n)
	f.parsed = &mode
	return nil
}

// here returns the mode of sockets on this machine.
func (f *socketFlags) here() fs.FileMode {
	if f.parsed == nil {
		return 0o600
	}
	return *f.parsed
}

// inGuest returns the options of a listener in the guest, nil if it has no file.
func (f *socketFlags) inGuest(network string) *guest.ListenOptions {
	if network != "unix" {
		return nil
	}
	user, group, _ := strings.Cut(f.owner, ":")
	return &guest.ListenOptions{Mode: f.parsed, User: user, Group: group}
}
