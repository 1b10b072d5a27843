package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/keys"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// enrollment is what the flags of enroll say.
type enrollment struct {
	key     string
	name    string
	roles   []string
	revoke  string
	list    bool
	replace bool
	print   string
	listing listing
}

func (c *cli) enrollCommand() *cobra.Command {
	e := &enrollment{}
	cmd := &cobra.Command{
		Use:   "enroll [flags] GUEST",
		Short: "Have a guest know a key",
		Long: `Have a guest know a key: this user's, which is made if it is missing, or that of
--key. The connection has to be trusted already: as root of the host, through the
VMM's socket, or with another key. The guest's own key is pinned by its name.

Through sudo, the key, the configuration file and the known guests are those of the
user who called sudo, and what is made is that user's.

With --print, print what to pass to a VM that is yet to boot, in place of GUEST.`,
		ValidArgsFunction: c.completeGuest,
		RunE: func(cmd *cobra.Command, args []string) error {
			if u := sudoUser(); u != nil && os.Getenv("XDG_CONFIG_HOME") == "" {
				// root is asked for to be trusted by the guest, not to have a key of its own.
				os.Setenv("XDG_CONFIG_HOME", filepath.Join(u.HomeDir, ".config"))
			}
			if e.print != "" {
				if len(args) > 0 {
					return usageError{errors.New("--print goes without GUEST")}
				}
				return c.printEnrollment(e)
			}
			if err := checkFormat(e.listing.format); err != nil {
				return err
			}
			target, _, err := guestArg(args, 0, 0)
			if err != nil {
				return err
			}
			return c.enroll(cmd, target, e)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&e.key, "key", "", "public key: a file, or its text (default this user's)")
	flags.StringVar(&e.name, "name", "", "name of the key in the guest: of this user's, USER@HOST by default; of --key NAME.pub, NAME")
	flags.StringSliceVar(&e.roles, "role", nil, "role of the guest's policy, or info, ops or full; a list (default everything)")
	flags.StringVar(&e.revoke, "revoke", "", "revoke the key with this fingerprint instead")
	flags.BoolVar(&e.list, "list", false, "list the keys that the guest knows instead")
	flags.BoolVar(&e.replace, "replace", false, "the guest was made anew: forget the key that is pinned for it")
	flags.StringVar(&e.print, "print", "", "print what to pass at boot: for qemu, fw_cfg (of QEMU), firecracker or cloud-init")
	e.listing.flags(cmd, "print fingerprints alone")
	cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"info", "ops", "full"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("print", cobra.FixedCompletions([]string{"qemu", "fw_cfg", "firecracker", "cloud-init"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// host returns the line for the key.
func (c *cli) enrolledKey(e *enrollment) (keys.Host, error) {
	text, name := e.key, e.name
	if text == "" {
		path, err := c.keyFlags.identityPath()
		if err != nil {
			return keys.Host{}, err
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if _, err := makeKey(path, ""); err != nil {
				return keys.Host{}, err
			}
			printVisible(c.stderr, "host-ctl: made a key: %s\n", path)
		}
		key, err := keys.ReadPrivate(path)
		if err != nil {
			return keys.Host{}, err
		}
		text = keys.PublicOf(key).String()
		if name == "" {
			name = defaultComment()
		}
	} else if data, err := os.ReadFile(text); err != nil && looksLikePath(text) {
		return keys.Host{}, usageError{fmt.Errorf("--key: %w", err)}
	} else if err == nil {
		if name == "" {
			name = fileKeyName(e.key)
		}
		if len(data) > keys.MaxFile {
			return keys.Host{}, fmt.Errorf("%s is no public key", e.key)
		}
		text = strings.TrimSpace(string(data))
	}
	pub, _, err := keys.ParsePublic(text)
	if err != nil {
		return keys.Host{}, usageError{fmt.Errorf("--key: %w", err)}
	}
	// Not the comment, which who made the key has written: a policy goes by names.
	h := keys.Host{Key: pub, Name: name, Roles: e.roles}
	if err := h.Check(); err != nil {
		return keys.Host{}, usageError{err}
	}
	return h, nil
}

// looksLikePath reports whether --key names a file, and is not a key's text: base64
// may have slashes, but a key begins with its type.
func looksLikePath(text string) bool {
	return !strings.HasPrefix(text, "AAAA") && !strings.HasPrefix(text, "ssh-")
}

// fileKeyName returns the name of the key in a file that whoever enrols it has named:
// bob of bob.pub. A file that is called what key files are called by default, or what
// is no plain word, gives no name: the guest then knows the key by its fingerprint.
func fileKeyName(path string) string {
	name := strings.TrimSuffix(filepath.Base(path), ".pub")
	if name == "id_ed25519" || keys.CheckWord(name) != nil {
		return ""
	}
	return name
}

func (c *cli) enroll(cmd *cobra.Command, target string, e *enrollment) error {
	if e.replace {
		trust, err := c.keyFlags.trust()
		if err == nil && trust.Known != nil {
			err = trust.Known.Forget(target)
		}
		if err != nil {
			return err
		}
	}
	if e.list || e.revoke != "" {
		return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
			if e.list {
				return c.listKeys(ctx, g, e)
			}
			resp, err := g.RemoveHostKey(ctx, e.revoke)
			if err == nil && !resp.GetDurable() {
				err = fmt.Errorf("the key is revoked until the agent ends, and may be allowed again then: %s", resp.GetNotDurable())
			}
			return err
		})
	}
	h, err := c.enrolledKey(e)
	if err != nil {
		return err
	}
	return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
		resp, err := g.AddHostKey(ctx, &guestv1.HostKey{PublicKey: h.Key.String(), Name: h.Name, Roles: h.Roles})
		if err != nil {
			return err
		}
		own, _, err := keys.ParsePublic(resp.GetAgentPublicKey())
		if err != nil {
			return fmt.Errorf("the guest's own key: %w", err)
		}
		if proved := g.GuestKey(); proved != "" && proved != own.Fingerprint() {
			return fmt.Errorf("the guest says that its key is %s, and has proved %s: nothing more is said to it", own.Fingerprint(), proved)
		}
		if !resp.GetDurable() {
			c.notDurable(resp.GetNotDurable())
		}
		as := ""
		if h.Name != "" {
			as = " as " + h.Name
		}
		return printVisible(c.stdout, "%s knows %s%s\nits own key is %s\n", target, h.Key.Fingerprint(), as, own.Fingerprint())
	})
}

func (c *cli) notDurable(why string) {
	printVisible(c.stderr, "host-ctl: this lasts until the agent ends: %s\n", why)
}

// hostKeyJSON is a key as -o json has it. Fields are only ever added.
type hostKeyJSON struct {
	Fingerprint string   `json:"fingerprint"`
	Name        string   `json:"name,omitempty"`
	Roles       []string `json:"roles,omitempty"`
	Revoked     bool     `json:"revoked,omitempty"`
	Source      string   `json:"source,omitempty"`
	PublicKey   string   `json:"public_key"`
}

func (c *cli) listKeys(ctx context.Context, g *guest.Guest, e *enrollment) error {
	list, err := g.HostKeys(ctx)
	if err != nil {
		return err
	}
	p := e.listing.printer(c.stdout, "FINGERPRINT", "NAME", "ROLES", "STATE", "SOURCE")
	for _, k := range list {
		state := "allowed"
		if k.GetRevoked() {
			state = "revoked"
		}
		j := hostKeyJSON{k.GetFingerprint(), k.GetName(), k.GetRoles(), k.GetRevoked(), k.GetSource(), k.GetPublicKey()}
		if err := p.row(k.GetFingerprint(), j, k.GetFingerprint(), k.GetName(), strings.Join(k.GetRoles(), ","), state, k.GetSource()); err != nil {
			return err
		}
	}
	return p.close()
}

// printEnrollment prints what lets a guest know the key from its first boot on.
func (c *cli) printEnrollment(e *enrollment) error {
	h, err := c.enrolledKey(e)
	if err != nil {
		return err
	}
	switch e.print {
	case "qemu":
		// A comma would end the option's value; QEMU takes two for one.
		return printVisible(c.stdout, "-smbios 'type=11,value=io.systemd.credential:guest-agent.authorized_hosts=%s'\n", strings.ReplaceAll(h.String(), ",", ",,"))
	case "fw_cfg":
		return printVisible(c.stdout, "-fw_cfg 'name=opt/io.systemd.credentials/guest-agent.authorized_hosts,string=%s'\n", strings.ReplaceAll(h.String(), ",", ",,"))
	case "firecracker":
		if len(h.Roles) > 0 {
			return usageError{errors.New("--role does not go into a kernel's command line: put the key into the image, or a policy")}
		}
		return printVisible(c.stdout, "guest-agent.authorized-hosts=%s\n", h.Key.Base64())
	case "cloud-init":
		return printVisible(c.stdout, `#cloud-config
write_files:
  - path: /etc/guest-agent/authorized_hosts
    owner: root:root
    permissions: "0644"
    content: |
      %s
`, h.String())
	}
	return usageError{fmt.Errorf("--print %s: want qemu, fw_cfg, firecracker or cloud-init", e.print)}
}
