//go:build linux

package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/vsockrpc/vsockrpc/internal/trusted"
)

// hostsCredential is the name of the credential with keys of hosts.
const hostsCredential = "guest-agent.authorized_hosts"

// maxCredential bounds the size of a credential, as systemd does, and of the
// firmware's tables.
const maxCredential = 1 << 20

// credential returns a credential as systemd knows them (systemd.exec(5),
// "CREDENTIALS"), and where it is from: the service's directory; that of the
// system, where systemd has put what the VMM passed; or, in a guest without
// systemd, what the VMM passes itself, as fw_cfg file or SMBIOS string. Without
// one the text is nil.
func credential(root, dir, name string) (text []byte, from string, err error) {
	files := []struct{ path, from string }{
		{filepath.Join(root, "run/credentials/@system", name), "system"},
		{filepath.Join(root, "sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials", name, "raw"), "fw_cfg"},
	}
	if dir != "" {
		files = append([]struct{ path, from string }{{filepath.Join(dir, name), "service"}}, files...)
	}
	var errs []error
	for _, f := range files {
		data, err := trusted.Read(f.path, maxCredential)
		if err == nil {
			return data, f.from, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			errs = append(errs, err)
		}
	}
	table, err := trusted.Read(filepath.Join(root, "sys/firmware/dmi/tables/DMI"), maxCredential)
	if err == nil {
		text, err = smbiosCredential(table, name)
		if err == nil && text != nil {
			return text, "SMBIOS", nil
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		errs = append(errs, err)
	}
	return nil, "", errors.Join(errs...)
}

// Of SMBIOS (DSP0134): structures of type 11 hold the strings of the maker, and
// type 127 is the last.
const (
	smbiosStrings = 11
	smbiosEnd     = 127
)

// smbiosCredential finds a credential in the table of SMBIOS structures:
// "io.systemd.credential:NAME=TEXT", or "io.systemd.credential.binary:NAME=" and
// base64.
func smbiosCredential(table []byte, name string) ([]byte, error) {
	for len(table) >= 4 {
		kind, length := table[0], int(table[1])
		if length < 4 || length > len(table) || kind == smbiosEnd {
			break
		}
		rest := table[length:]
		end := bytes.Index(rest, []byte{0, 0})
		if end < 0 {
			break
		}
		if kind == smbiosStrings {
			for s := range strings.SplitSeq(string(rest[:end]), "\x00") {
				if text, ok := strings.CutPrefix(s, "io.systemd.credential:"+name+"="); ok {
					return []byte(text), nil
				}
				if text, ok := strings.CutPrefix(s, "io.systemd.credential.binary:"+name+"="); ok {
					data, err := base64.StdEncoding.DecodeString(text)
					if err != nil {
						return nil, fmt.Errorf("SMBIOS credential %s: %w", name, err)
					}
					return data, nil
				}
			}
		}
		table = rest[end+2:]
	}
	return nil, nil
}
