//go:build linux

package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/keys"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// secure makes the guard, the agent's key and the server.
func (a *Agent) secure(cfg *Config) error {
	own := *cfg
	if own.Hosts == nil {
		hosts, err := access.NewHosts(&access.HostsConfig{Logger: a.log})
		if err != nil {
			return err
		}
		own.Hosts = hosts
	}
	key := own.Key
	if key == nil {
		var err error
		if _, key, err = ed25519.GenerateKey(nil); err != nil {
			return fmt.Errorf("make the agent's key: %w", err)
		}
	}
	a.ownKey = func() ed25519.PrivateKey {
		if own.CurrentKey != nil {
			if now := own.CurrentKey(); now != nil {
				return now
			}
		}
		return key
	}
	a.guard = newGuard(&own, a.id, a.log)
	tc := own.TLS
	if tc == nil {
		var err error
		if tc, err = keys.ServerConfig(key); err != nil {
			return err
		}
		keys.FollowKey(tc, a.ownKey)
	}
	a.server = newServer(cfg, a.guard, a.version, tc)
	a.guard.open.connections, a.guard.open.drop = a.server.Connections, a.server.Drop
	return nil
}

// Level says how callers are known at present: "peer" (by the connection alone:
// there are no keys), "keys" (by that, or by a key), "keys-required", or
// "embedded".
func (a *Agent) Level() string {
	switch {
	case a.rules.Mode == access.ModeEmbedded:
		return "embedded"
	case a.guard.requireKeys:
		return "keys-required"
	case !a.guard.hosts.Empty() || a.guard.ownTLS:
		return "keys"
	}
	return "peer"
}

// Fingerprint returns that of the agent's own key.
func (a *Agent) Fingerprint() string { return a.publicKey().Fingerprint() }

func (a *Agent) publicKey() keys.Public { return keys.PublicOf(a.ownKey()) }

// describe tells a trusted caller what it may do, in Info.
func (g *guard) describe(who *caller, acc *guestv1.Access) {
	p, perr := g.policy.Get()
	if p != nil {
		acc.Policy, acc.AuditOnly = g.policy.Path(), p.AuditOnly
	}
	// Of an open method the decision has no roles: any other will do.
	acc.Roles = p.Decide(who.policyCaller(), policy.Call{Method: guestv1.AccessService_Explain_FullMethodName}, g.world).Roles
	if err := errors.Join(perr, g.hosts.Err()); err != nil {
		acc.Error = err.Error()
	}
}

// accessService is guest.v1.AccessService.
type accessService struct {
	guestv1.UnimplementedAccessServiceServer
	guard *guard
}

// Explain says what would become of a call of this caller.
func (s *accessService) Explain(ctx context.Context, req *guestv1.ExplainRequest) (*guestv1.ExplainResponse, error) {
	p, _ := s.guard.policy.Get()
	who, c := callerIn(ctx), policy.FromRequest(req)
	if err := c.Check(); err != nil {
		return nil, err
	}
	d := p.Decide(who.policyCaller(), c, s.guard.worldOf(ctx))
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	if !who.face.Has(access.ClassOf(c.Method)) {
		d.Allowed, d.Rule, d.Text, d.Remedy = false, "face "+string(who.face), otherFace(c.Method, who.face).Error(), otherFaceRemedy
	}
	// Where links lead is not everybody's to know.
	if read := policy.Describe(c, policy.World{}); read != "" {
		d.Text += " (read as " + read + ")"
	}
	return &guestv1.ExplainResponse{Allowed: d.Allowed && !d.WouldRefuse, Rule: d.Rule, Text: d.Text, Remedy: d.Remedy, Roles: d.Roles}, nil
}

// controlService is guest.v1.ControlService.
type controlService struct {
	guestv1.UnimplementedControlServiceServer
	agent *Agent
}

// AddHostKey lets the holder of a key call.
func (s *controlService) AddHostKey(ctx context.Context, req *guestv1.AddHostKeyRequest) (*guestv1.AddHostKeyResponse, error) {
	const op = "add host key"
	pub, _, err := keys.ParsePublic(req.GetKey().GetPublicKey())
	if err != nil {
		return nil, fault.New(codes.InvalidArgument, "bad-key", "%v", err).On(op, "", nil)
	}
	host := keys.Host{Key: pub, Name: req.GetKey().GetName(), Roles: req.GetKey().GetRoles()}
	if err := s.agent.guard.checkRoles(host.Roles); err != nil {
		return nil, err.On(op, "", nil)
	}
	err = s.agent.guard.hosts.Add(host)
	switch {
	case errors.Is(err, access.ErrNameTaken):
		return nil, fault.New(codes.AlreadyExists, "key-name-taken", "%v", err).On(op, "", nil).
			Hint("give the key another name, or revoke the key that has it (host-ctl enroll --list GUEST)")
	case errors.Is(err, access.ErrNotAdded):
		return nil, fault.New(codes.InvalidArgument, "bad-key", "%v", err).On(op, "", nil)
	}
	a := s.agent
	if _, status := a.guard.hosts.Lookup(pub); status != access.KeyKnown {
		return nil, fault.New(codes.FailedPrecondition, "revoked-key", "the guest's own configuration revokes the key %s", pub.Fingerprint()).
			On(op, "", nil).Hint("take the line with revoked out of the guest's authorized_hosts")
	}
	a.log.Info("host key added", "key", pub.Fingerprint(), "name", host.Name, "roles", host.Roles, "by", callerIn(ctx).identity())
	resp := &guestv1.AddHostKeyResponse{Key: hostKeyMessage(access.HostEntry{Host: host}), AgentPublicKey: a.publicKey().String(), Durable: err == nil}
	if err != nil {
		resp.NotDurable = err.Error()
	}
	return resp, nil
}

// checkRoles refuses roles that are neither of the policy nor profiles: a key with a
// mistyped one could do nothing.
func (g *guard) checkRoles(roles []string) *fault.Error {
	p, _ := g.policy.Get()
	var known []string
	for _, profile := range []access.Profile{access.ProfileInfo, access.ProfileOps, access.ProfileFull} {
		known = append(known, string(profile))
	}
	if p != nil {
		known = append(known, slices.Sorted(maps.Keys(p.Roles))...)
	}
	for _, role := range roles {
		if !slices.Contains(known, role) {
			return fault.New(codes.InvalidArgument, "unknown-role", "no role is called %q", role).
				Hint("give one of " + strings.Join(known, ", ") + ", or add the role to the guest's policy first")
		}
	}
	return nil
}

// RemoveHostKey revokes a key.
func (s *controlService) RemoveHostKey(ctx context.Context, req *guestv1.RemoveHostKeyRequest) (*guestv1.RemoveHostKeyResponse, error) {
	const op = "remove host key"
	if err := keys.CheckFingerprint(req.GetFingerprint()); err != nil {
		return nil, fault.New(codes.InvalidArgument, "bad-key", "%v", err).On(op, "", nil)
	}
	err := s.agent.guard.hosts.Revoke(req.GetFingerprint())
	switch {
	case errors.Is(err, access.ErrUnknownKey):
		return nil, fault.New(codes.NotFound, "unknown-key", "no key has the fingerprint %s", req.GetFingerprint()).On(op, "", nil)
	case errors.Is(err, access.ErrNotAdded):
		return nil, fault.New(codes.FailedPrecondition, "bad-key", "%v", err).On(op, "", nil)
	}
	s.agent.log.Info("host key revoked", "key", req.GetFingerprint(), "by", callerIn(ctx).identity())
	resp := &guestv1.RemoveHostKeyResponse{Durable: err == nil}
	if err != nil {
		resp.NotDurable = err.Error()
	}
	return resp, nil
}

// ListHostKeys lists the keys that the agent knows.
func (s *controlService) ListHostKeys(context.Context, *guestv1.ListHostKeysRequest) (*guestv1.ListHostKeysResponse, error) {
	resp := &guestv1.ListHostKeysResponse{}
	for _, e := range s.agent.guard.hosts.List() {
		resp.Keys = append(resp.Keys, hostKeyMessage(e))
	}
	return resp, nil
}

func hostKeyMessage(e access.HostEntry) *guestv1.HostKey {
	return &guestv1.HostKey{PublicKey: e.Key.String(), Name: e.Name, Roles: e.Roles, Fingerprint: e.Key.Fingerprint(), Revoked: e.Revoked, Source: e.Source}
}

// GetPolicy returns the policy in force.
func (s *controlService) GetPolicy(context.Context, *guestv1.GetPolicyRequest) (*guestv1.GetPolicyResponse, error) {
	a := s.agent
	resp := &guestv1.GetPolicyResponse{AgentPublicKey: a.publicKey().String(), AgentFingerprint: a.Fingerprint()}
	p, err := a.guard.policy.Get()
	if p != nil {
		resp.Path, resp.Text = a.guard.policy.Path(), []byte(p.Text)
	}
	if err != nil {
		resp.Error = err.Error()
	}
	return resp, nil
}
