package mail

// Forwarded is what a content filter tells of the client that it has a message
// from (XFORWARD). It is for the log: nothing is decided by it. What it does not
// tell, or does not know, is "".
type Forwarded struct {
	Name, Address, Port string // of the client
	Protocol, Helo      string
	QueueID             string // that the message has, or had, there
	Source              string // "LOCAL" or "REMOTE": where the message came from at first
}
