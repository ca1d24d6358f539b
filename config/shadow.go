package config

import "slices"

const modeShadow = "shadow"

// KeepsMail reports whether mail of any account is kept by gateways until the
// partner has it, too.
func (r *Replica) KeepsMail() bool {
	return r.Durability == modeShadow || slices.ContainsFunc(r.Accounts, func(a *ReplicaAccount) bool { return a.Durability == modeShadow })
}

// Keeps reports whether mail of an account is.
func (r *Replica) Keeps(account string) bool { return r.DurabilityOf(account) == modeShadow }
