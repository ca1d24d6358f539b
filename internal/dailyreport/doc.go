// Package dailyreport is what reports share that go to other domains once a UTC
// day, on DMARC and on TLS: the days, when a report is sent and tried again,
// who says that it is from us and how the message is put together, and the loop
// in which a reporter writes its counts, sends and answers operators.
//
// What is counted, where it is kept and who wants it is each reporter's own.
package dailyreport
