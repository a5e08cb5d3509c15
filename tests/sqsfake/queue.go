package sqsfake

import (
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Attributes are a queue's. The zero value has SQS' own.
type Attributes struct {
	VisibilityTimeout time.Duration // 0: 30 s
}

// Queue is one standard queue.
type Queue struct {
	server     *Server
	name       string
	attributes Attributes
	messages   []*message // in the order in which they were sent
}

type message struct {
	id       string
	body     string
	group    string // "": none
	sent     time.Time
	first    time.Time // received
	due      time.Time // visible from then on
	receipt  string    // of the last time that it was received; "": never
	receives int
}

// Message is what a test may know of one.
type Message struct{ ID, Body, Group string }

// Create makes a queue. Names must differ.
func (s *Server) Create(name string, attributes Attributes) *Queue {
	if attributes.VisibilityTimeout == 0 {
		attributes.VisibilityTimeout = 30 * time.Second
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := &Queue{server: s, name: name, attributes: attributes}
	s.queues = append(s.queues, q)
	return q
}

// URL is what clients are configured with.
func (q *Queue) URL() string { return q.server.URL + "/" + account + "/" + q.name }

// ARN is how IAM's policies, and Lambda's events, name it.
func (q *Queue) ARN() string { return "arn:aws:sqs:" + region + ":" + account + ":" + q.name }

// Send adds a message, as another client does, and returns its id.
func (q *Queue) Send(body string) string {
	q.server.mu.Lock()
	defer q.server.mu.Unlock()
	return q.add(body, "")
}

// Messages returns all that is in the queue, in the order in which it was sent.
func (q *Queue) Messages() []Message {
	q.server.mu.Lock()
	defer q.server.mu.Unlock()
	all := make([]Message, len(q.messages))
	for i, m := range q.messages {
		all[i] = Message{m.id, m.body, m.group}
	}
	return all
}

// Redeliver makes visible what is in flight, before its time, as SQS may: whoever
// has it works on, and somebody else gets it too.
func (q *Queue) Redeliver() {
	q.server.mu.Lock()
	defer q.server.mu.Unlock()
	for _, m := range q.messages {
		m.due = time.Now()
	}
	q.announce()
}

// receive takes up to n visible messages for the queue's timeout, and returns them
// as they are then.
func (q *Queue) receive(n int) []message {
	q.server.mu.Lock()
	defer q.server.mu.Unlock()
	now := time.Now()
	var taken []message
	for _, m := range q.messages {
		if len(taken) == n {
			break
		}
		if m.due.After(now) {
			continue
		}
		if m.receives++; m.receives == 1 {
			m.first = now
		}
		m.receipt, m.due = newID(), now.Add(q.attributes.VisibilityTimeout)
		taken = append(taken, *m)
	}
	return taken
}

// delete removes the message that was last received under receipt. SQS lets an
// older receipt pass, and keeps the message.
func (q *Queue) delete(receipt string) {
	q.server.mu.Lock()
	defer q.server.mu.Unlock()
	q.messages = slices.DeleteFunc(q.messages, func(m *message) bool { return m.receipt == receipt })
}

// What follows is called with the server's lock held.

func (q *Queue) announce() {
	close(q.server.changed)
	q.server.changed = make(chan struct{})
}

// add returns the new message's id.
func (q *Queue) add(body, group string) string {
	now := time.Now()
	m := &message{id: newID(), body: body, group: group, sent: now, due: now}
	q.messages = append(q.messages, m)
	q.announce()
	return m.id
}

// next is when a message is visible next; there may be none.
func (q *Queue) next() (due time.Time, there bool) {
	for _, m := range q.messages {
		if !there || m.due.Before(due) {
			due, there = m.due, true
		}
	}
	return due, there
}

func (m *message) attributes() map[string]string {
	return map[string]string{
		"ApproximateReceiveCount":          strconv.Itoa(m.receives),
		"SentTimestamp":                    strconv.FormatInt(m.sent.UnixMilli(), 10),
		"ApproximateFirstReceiveTimestamp": strconv.FormatInt(m.first.UnixMilli(), 10),
		"SenderId":                         "AROAEXAMPLE:function",
	}
}

func sum(body string) string {
	s := md5.Sum([]byte(body))
	return hex.EncodeToString(s[:])
}

func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
