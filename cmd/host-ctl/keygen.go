package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/keys"
)

// trustFlags are the global flags about keys.
type trustFlags struct {
	identity, knownGuests, guestKey string
}

func (f *trustFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.identity, "identity", "", "private key to show to guests (default host-ctl/id_ed25519 below $XDG_CONFIG_HOME, if it is there)")
	flags.StringVar(&f.knownGuests, "known-guests", "", "file of guests' keys (default known_guests beside it)")
	flags.StringVar(&f.guestKey, "guest-key", "", "fingerprint (SHA256:...) that the guest's key must have")
}

// trust reads the keys.
func (f *trustFlags) trust() (*guest.Trust, error) {
	t, err := guest.ReadTrust(f.identity, f.knownGuests)
	if err != nil {
		return nil, err
	}
	t.GuestKey = f.guestKey
	return t, nil
}

// identityPath returns where the user's private key is, or should be.
func (f *trustFlags) identityPath() (string, error) {
	if f.identity != "" {
		return f.identity, nil
	}
	return guest.DefaultIdentity()
}

func (c *cli) keygenCommand() *cobra.Command {
	var force bool
	var comment string
	cmd := &cobra.Command{
		Use:   "keygen [flags]",
		Short: "Make a key to show to guests",
		Long: `Make an Ed25519 key to show to guests, at --identity or its default path, and its
public half beside it, which is printed. The guests that should know it are told
by host-ctl enroll.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			path, err := c.keyFlags.identityPath()
			if err != nil {
				return err
			}
			if force {
				if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			line, err := makeKey(path, comment)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("there is a key already: %s (--force replaces it; guests that know the old one do not know the new one)", path)
			}
			if err != nil {
				return err
			}
			return printVisible(c.stdout, "%s\n", line)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "replace a key that is there")
	cmd.Flags().StringVarP(&comment, "comment", "C", "", "what stands after the public key (default USER@HOST)")
	return cmd
}

// makeKey makes a key and both files, and returns the public one's line.
func makeKey(path, comment string) (string, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", err
	}
	if comment == "" {
		comment = defaultComment()
	}
	h := keys.Host{Key: keys.PublicOf(key), Name: comment}
	if err := h.Check(); err != nil {
		return "", usageError{fmt.Errorf("--comment: %w", err)}
	}
	return h.String(), keys.WritePair(path, key, h.String())
}

// sudoUser returns the user who runs this process as root through sudo, or nil.
func sudoUser() *user.User {
	if os.Geteuid() != 0 || os.Getenv("SUDO_UID") == "0" {
		return nil
	}
	u, err := user.LookupId(os.Getenv("SUDO_UID"))
	if err != nil {
		return nil
	}
	return u
}

// defaultComment is USER@HOST, of the characters that a name may have.
func defaultComment() string {
	name := "user"
	if u := sudoUser(); u != nil {
		name = u.Username
	} else if u, err := user.Current(); err == nil {
		name = filepath.Base(strings.ReplaceAll(u.Username, `\`, "/"))
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f {
			return '_'
		}
		return r
	}, name)
}
