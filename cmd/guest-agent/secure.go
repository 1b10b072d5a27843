//go:build linux

package main

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/audit"
	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/internal/reload"
	"github.com/vsockrpc/vsockrpc/keys"
)

// defaultHosts is the file of keys if no other is named.
const defaultHosts = "/etc/guest-agent/authorized_hosts"

// secure sets the agent's key, the keys of hosts, the policy and the audit log.
// The function that it returns closes the log.
func (d *daemon) secure(cfg *agent.Config) (func(), error) {
	s := d.settings
	own := filepath.Join(s.stateDir, "id_ed25519")
	cfg.Key = d.ownKey(own)
	cfg.CurrentKey = d.followKey(own)
	cfg.RequireKeys = s.requireKeys
	cfg.Hosts = d.hosts()
	cfg.Policy = policy.Open(s.policy, d.log)
	if _, err := cfg.Policy.Get(); err != nil {
		d.log.Error("policy: everything is refused until the file is mended", "err", err)
	}
	var err error
	switch s.audit {
	case "off":
		return func() {}, nil
	case "stderr":
		cfg.Audit, err = audit.New(audit.Config{Writer: os.Stderr, Logger: d.log})
	default:
		cfg.Audit, err = audit.New(audit.Config{Path: s.audit, Logger: d.log})
	}
	if err != nil && !d.keepTrying {
		return nil, err
	}
	if err != nil {
		d.log.Error("calls are not recorded until this is mended", "err", err)
	}
	return func() { cfg.Audit.Close() }, nil
}

// policyState says for the log which policy is in force.
func policyState(f *policy.File) string {
	p, err := f.Get()
	switch {
	case err != nil:
		return "broken: " + f.Path()
	case p == nil:
		return "none"
	case p.AuditOnly:
		return "audit-only: " + f.Path()
	}
	return f.Path()
}

// ownKey returns the agent's key: that of the file, which is made if it is
// missing. Where that is not possible it lasts as long as the agent.
func (d *daemon) ownKey(path string) ed25519.PrivateKey {
	key, made, err := keys.ReadOrMake(path)
	switch {
	case err != nil:
		d.log.Warn("the agent's key is for this run only: hosts that pin it will refuse the next one", "err", err)
	case made:
		d.log.Info("made the agent's key", "path", path, "key", keys.PublicOf(key).Fingerprint())
	}
	return key // without one, the agent makes one
}

// followKey returns a function that returns the key of the file as it is now: a file
// system may be mounted over the directory after the agent has started.
func (d *daemon) followKey(path string) func() ed25519.PrivateKey {
	f := reload.New(reload.Config[ed25519.PrivateKey]{
		Path:   path,
		Parse:  keys.ParsePrivate,
		Keep:   true,
		Secret: true,
		Report: func(err error) {
			if err != nil {
				d.log.Warn("the file of the agent's key cannot be read again; the key it had is used", "err", err)
			} else {
				d.log.Warn("the agent's key was replaced, and is read again", "path", path)
			}
		},
	})
	return func() ed25519.PrivateKey {
		key, _, _ := f.Get()
		return key
	}
}

// hosts collects the keys of hosts. What is malformed may have restricted or revoked
// one, so that it locks the agent.
func (d *daemon) hosts() *access.Hosts {
	cfg := &access.HostsConfig{StateFile: filepath.Join(d.settings.stateDir, "authorized_hosts"), Fixed: make(map[string][]byte), Logger: d.log}
	var words []string
	for _, v := range d.settings.hosts.values {
		if filepath.IsAbs(v) {
			cfg.Files = append(cfg.Files, v)
		} else {
			words = append(words, v)
		}
	}
	if len(cfg.Files) == 0 {
		cfg.Files = []string{defaultHosts}
	}
	if len(words) > 0 {
		cfg.Fixed["settings"] = []byte(strings.Join(words, "\n"))
	}
	text, from, err := credential("/", os.Getenv("CREDENTIALS_DIRECTORY"), hostsCredential)
	if err != nil {
		d.lock(fmt.Errorf("credential %s: %w", hostsCredential, err))
	}
	if len(text) > 0 {
		cfg.Fixed[fmt.Sprintf("credential (%s)", from)] = text
	}
	hosts, err := access.NewHosts(cfg)
	if err != nil {
		d.lock(err)
	}
	return hosts
}

// lock has the agent serve health alone.
func (d *daemon) lock(err error) {
	if d.settings.locked != "" {
		d.settings.locked += "; "
	}
	d.settings.locked += oneLine(err)
}
