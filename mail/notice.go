package mail

import "errors"

// ErrNoReport is what composing a report returns when there is to be none,
// though one was owed.
var ErrNoReport = errors.New("no report is wanted")

// NoticeClass is what a notice to the postmaster is about; the names in the
// configuration are those of Postfix's notify_classes.
type NoticeClass int

// The classes.
const (
	NoticeNone         NoticeClass = iota // no notice, but a report to the sender
	NoticeBounce                          // copy of a report of failure
	NoticeDelay                           // copy of a warning of delay
	NoticeDoubleBounce                    // mail with the null reverse-path that nobody took
	NoticeResource                        // no room for mail
	NoticeSoftware                        // a fault or a setting of ours keeps mail from its way
	noticeClasses
)

var noticeNames = [noticeClasses]string{"none", "bounce", "delay", "2bounce", "resource", "software"}

// String returns the class's name in the configuration, log and metrics.
func (c NoticeClass) String() string { return noticeNames[c] }

// NoticeClasses lists the classes a postmaster may ask for.
func NoticeClasses() []NoticeClass {
	return []NoticeClass{NoticeBounce, NoticeDelay, NoticeDoubleBounce, NoticeResource, NoticeSoftware}
}
