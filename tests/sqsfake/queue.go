package sqsfake

import (
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// maxMessage is how long a message may be, in bytes.
const maxMessage = 1 << 20

// Attributes are a queue's. The zero value has SQS' own.
type Attributes struct {
	VisibilityTimeout time.Duration // 0: 30 s
	Retention         time.Duration // 0: 4 days
	// DeadLetters gets a message that was received MaxReceiveCount times, once it
	// is due again. It keeps the time at which it was sent. nil: it comes for ever.
	DeadLetters     *Queue
	MaxReceiveCount int
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
	sent     time.Time
	first    time.Time // received
	due      time.Time // visible from then on
	receipt  string    // of the last time that it was received; "": never
	receives int
}

// Message is what a test may know of one.
type Message struct {
	ID       string
	Body     string
	Receives int
	InFlight bool // received, neither deleted nor visible again
}

// Create makes a queue. Names must differ.
func (s *Server) Create(name string, attributes Attributes) *Queue {
	if attributes.VisibilityTimeout == 0 {
		attributes.VisibilityTimeout = 30 * time.Second
	}
	if attributes.Retention == 0 {
		attributes.Retention = 4 * 24 * time.Hour
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := &Queue{server: s, name: name, attributes: attributes}
	s.queues = append(s.queues, q)
	return q
}

// URL is what clients are configured with.
func (q *Queue) URL() string { return q.server.URL + "/" + account + "/" + q.name }

// ARN is the queue's in templates and events.
func (q *Queue) ARN() string { return "arn:aws:sqs:" + region + ":" + account + ":" + q.name }

// Send adds a message, as another client does, and returns its id.
func (q *Queue) Send(body string) string {
	q.server.mu.Lock()
	defer q.server.mu.Unlock()
	return q.add(body).id
}

// Messages returns all that is in the queue, in the order in which it was sent.
func (q *Queue) Messages() []Message {
	q.server.mu.Lock()
	defer q.server.mu.Unlock()
	q.expire()
	now := q.server.now()
	all := make([]Message, len(q.messages))
	for i, m := range q.messages {
		all[i] = Message{m.id, m.body, m.receives, m.due.After(now)}
	}
	return all
}

// Redeliver makes visible what is in flight, before its time, as SQS may: whoever
// has it works on, and somebody else gets it too.
func (q *Queue) Redeliver() {
	q.server.mu.Lock()
	defer q.server.mu.Unlock()
	for _, m := range q.messages {
		m.due = q.server.now()
	}
	q.announce()
}

// What follows is called with the server's lock held.

func (q *Queue) announce() {
	close(q.server.changed)
	q.server.changed = make(chan struct{})
}

func (q *Queue) add(body string) *message {
	now := q.server.now()
	m := &message{id: newID(), body: body, sent: now, due: now}
	q.messages = append(q.messages, m)
	q.announce()
	return m
}

// expire removes what was kept for long enough.
func (q *Queue) expire() {
	now := q.server.now()
	q.messages = slices.DeleteFunc(q.messages, func(m *message) bool {
		return !now.Before(m.sent.Add(q.attributes.Retention))
	})
}

// receive takes up to n visible messages for a time, and returns them as they are
// then.
func (q *Queue) receive(n int, invisible time.Duration) []message {
	q.expire()
	now := q.server.now()
	var taken []message
	var dead []*message
	for _, m := range q.messages {
		if len(taken) == n {
			break
		}
		if m.due.After(now) {
			continue
		}
		if q.attributes.DeadLetters != nil && m.receives >= q.attributes.MaxReceiveCount {
			dead = append(dead, m)
			continue
		}
		if m.receives++; m.receives == 1 {
			m.first = now
		}
		m.receipt, m.due = newID(), now.Add(invisible)
		taken = append(taken, *m)
	}
	for _, m := range dead {
		q.messages = slices.DeleteFunc(q.messages, func(other *message) bool { return other == m })
		m.due, m.receipt = now, ""
		q.attributes.DeadLetters.messages = append(q.attributes.DeadLetters.messages, m)
		q.announce()
	}
	return taken
}

// delete removes the message that was last received under receipt. SQS lets an
// older receipt pass, and keeps the message.
func (q *Queue) delete(receipt string) {
	q.messages = slices.DeleteFunc(q.messages, func(m *message) bool { return m.receipt == receipt })
}

// next is when a message is visible next; there may be none.
func (q *Queue) next() (due time.Time, there bool) {
	q.expire()
	for _, m := range q.messages {
		if !there || m.due.Before(due) {
			due, there = m.due, true
		}
	}
	return due, there
}

func sendMessage(q *Queue, in request) (any, error) {
	if in.MessageBody == "" || len(in.MessageBody) > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes", len(in.MessageBody))
	}
	return map[string]string{"MessageId": q.add(in.MessageBody).id, "MD5OfMessageBody": sum(in.MessageBody)}, nil
}

func receiveMessage(q *Queue, in request) (any, error) {
	n, invisible := 1, q.attributes.VisibilityTimeout
	if in.MaxNumberOfMessages != nil {
		n = *in.MaxNumberOfMessages
	}
	if n < 1 || n > 10 {
		return nil, errors.New("MaxNumberOfMessages is 1 to 10")
	}
	if in.VisibilityTimeout != nil {
		invisible = time.Duration(*in.VisibilityTimeout) * time.Second
	}
	out := []map[string]any{}
	for _, m := range q.receive(n, invisible) {
		found := map[string]any{"MessageId": m.id, "ReceiptHandle": m.receipt, "Body": m.body, "MD5OfBody": sum(m.body)}
		if attributes := wanted(m.attributes(), in.MessageSystemAttributeNames); len(attributes) > 0 {
			found["Attributes"] = attributes
		}
		out = append(out, found)
	}
	return map[string]any{"Messages": out}, nil
}

func deleteMessage(q *Queue, in request) (any, error) {
	if in.ReceiptHandle == "" {
		return nil, errors.New("no ReceiptHandle")
	}
	q.delete(in.ReceiptHandle)
	return struct{}{}, nil
}

func changeMessageVisibility(q *Queue, in request) (any, error) {
	if in.ReceiptHandle == "" || in.VisibilityTimeout == nil {
		return nil, errors.New("no ReceiptHandle or no VisibilityTimeout")
	}
	now := q.server.now()
	for _, m := range q.messages {
		if m.receipt == in.ReceiptHandle && m.due.After(now) {
			m.due = now.Add(time.Duration(*in.VisibilityTimeout) * time.Second)
			q.announce()
			return struct{}{}, nil
		}
	}
	return nil, &refusal{"MessageNotInflight", "The specified message isn't in flight."}
}

func getQueueAttributes(q *Queue, in request) (any, error) {
	q.expire()
	visible, flying := 0, 0
	for _, m := range q.messages {
		if m.due.After(q.server.now()) {
			flying++
		} else {
			visible++
		}
	}
	seconds := func(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }
	all := map[string]string{
		"QueueArn":                              q.ARN(),
		"ApproximateNumberOfMessages":           strconv.Itoa(visible),
		"ApproximateNumberOfMessagesNotVisible": strconv.Itoa(flying),
		"VisibilityTimeout":                     seconds(q.attributes.VisibilityTimeout),
		"MessageRetentionPeriod":                seconds(q.attributes.Retention),
	}
	if dead := q.attributes.DeadLetters; dead != nil {
		policy, _ := json.Marshal(map[string]any{"deadLetterTargetArn": dead.ARN(), "maxReceiveCount": q.attributes.MaxReceiveCount}) // can't fail
		all["RedrivePolicy"] = string(policy)
	}
	return map[string]any{"Attributes": wanted(all, in.AttributeNames)}, nil
}

func (m *message) attributes() map[string]string {
	return map[string]string{
		"ApproximateReceiveCount":          strconv.Itoa(m.receives),
		"SentTimestamp":                    strconv.FormatInt(m.sent.UnixMilli(), 10),
		"ApproximateFirstReceiveTimestamp": strconv.FormatInt(m.first.UnixMilli(), 10),
		"SenderId":                         "AROAEXAMPLE:function",
	}
}

// wanted is what a call asks for by name, or by "All".
func wanted(all map[string]string, names []string) map[string]string {
	if slices.Contains(names, "All") {
		return all
	}
	some := map[string]string{}
	for name, value := range all {
		if slices.Contains(names, name) {
			some[name] = value
		}
	}
	return some
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
