package transfer

import (
	"context"
	"io"
)

// Sink is where an export goes.
type Sink interface {
	// Subscribe notes a subscription to a name without a mailbox.
	Subscribe(name string)
	// Folder begins a mailbox; its messages follow in the order of their UIDs.
	Folder(f Folder) error
	// Add takes a message of the folder begun last. lost names flags that the
	// format cannot keep.
	Add(m Message, text io.Reader) (lost []string, err error)
	// Close ends everything, and makes it durable.
	Close() error
}

// Exported is what an export did.
type Exported struct {
	Folders  int   `json:"folders"`
	Messages int64 `json:"messages"`
	Octets   int64 `json:"octets"`
	// Gone were expunged after the export began.
	Gone int64 `json:"gone"`
	// LostFlags counts flags that the format cannot keep.
	LostFlags int64 `json:"lost_flags"`
}

// Export writes the mailboxes for which wanted is true, as they are at one
// instant, but for what is expunged before it is read.
func Export(ctx context.Context, c *Client, to Sink, wanted func(name string) bool, progress func(*Exported)) (*Exported, error) {
	sum := &Exported{}
	folders, err := c.Picture(ctx)
	if err != nil {
		return sum, err
	}
	for _, f := range folders {
		if !wanted(f.Name) {
			continue
		}
		if f.Absent {
			to.Subscribe(f.Name)
			continue
		}
		if err := exportFolder(ctx, c, to, f, sum, progress); err != nil {
			return sum, err
		}
	}
	return sum, to.Close()
}

func exportFolder(ctx context.Context, c *Client, to Sink, f Folder, sum *Exported, progress func(*Exported)) error {
	if err := to.Folder(f); err != nil {
		return err
	}
	if f.Subscribed {
		to.Subscribe(f.Name)
	}
	sum.Folders++
	uids := make([]uint32, 0, f.Messages)
	err := c.Index(ctx, f.Name, false, func(m Message) error {
		uids = append(uids, m.UID)
		return nil
	})
	if err != nil {
		return err
	}
	before := sum.Messages
	err = c.Texts(ctx, f.Name, uids, func(m Message, r io.Reader) error {
		counted := &counting{Reader: r}
		lost, err := to.Add(m, counted)
		if err != nil {
			return err
		}
		sum.Messages++
		sum.Octets += counted.n
		sum.LostFlags += int64(len(lost))
		if progress != nil {
			progress(sum)
		}
		return nil
	})
	sum.Gone += int64(f.Messages) - (sum.Messages - before)
	return err
}
