package main

// regroup has the sessions of a listener ask the directory anew, each before its
// next command, where these go by what it says of groups.
func (m mailMembers) regroup() {
	if server, ok := m.accounts.(interface{ AccountsChanged() }); ok {
		server.AccountsChanged()
	}
}
