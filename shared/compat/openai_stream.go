package compat

import (
	"net/http"

	"postern/shared/agents"
	"postern/shared/api"
)

// A completion as a stream (platform.openai.com/docs/api-reference/chat-streaming):
// frames without names, each a chunk of the completion, and [DONE] at the end. What
// fails midway is told by a frame with an error, for which both OpenAI's own client
// and go-openai raise one, and no [DONE] comes.

type chunk struct {
	ID      string        `json:"id"`
	Object  string        `json:"object"`
	Created int64         `json:"created"`
	Model   string        `json:"model"`
	Choices []chunkChoice `json:"choices"`
	Usage   any           `json:"usage,omitempty"` // a *completionUsage, which may be nil: null; nil itself: not there
}

type chunkChoice struct {
	Index        int     `json:"index"`
	Delta        delta   `json:"delta"`
	FinishReason *string `json:"finish_reason"`
}

type delta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

// completionStream is one completion on its way to the caller.
type completionStream struct {
	*api.Stream
	w     http.ResponseWriter
	id    string // of the request, which w's headers are not asked for while the stream is open
	chunk chunk  // what each has in common

	begun  bool // the role was told
	result agents.Result
}

func newCompletionStream(w http.ResponseWriter, id string, created int64, req completionRequest) *completionStream {
	s := &completionStream{w: w, id: api.RequestID(w),
		chunk: chunk{ID: id, Object: "chat.completion.chunk", Created: created, Model: req.Model}}
	if req.StreamOptions.IncludeUsage {
		s.chunk.Usage = (*completionUsage)(nil) // as each but the last has for those who want it
	}
	s.Stream = api.OpenStream(w)
	return s
}

// take passes a text on. The steps of a workflow are no part of OpenAI's format.
func (s *completionStream) take(e agents.Event) error {
	switch {
	case e.Result != nil:
		s.result = *e.Result
		return nil
	case e.Step != nil:
		return nil
	}
	return s.say(delta{Content: &e.Text}, nil)
}

// say sends one chunk; the first of all says whose words follow, as OpenAI's does.
func (s *completionStream) say(d delta, finish *string) error {
	if !s.begun {
		s.begun = true
		if err := s.say(delta{Role: "assistant", Content: new("")}, nil); err != nil {
			return err
		}
	}
	c := s.chunk
	c.Choices = []chunkChoice{{Delta: d, FinishReason: finish}}
	return s.Send("", c)
}

func (s *completionStream) finish() error {
	reason := finishReason(s.result.Stop)
	if err := s.say(delta{}, &reason); err != nil {
		return err
	}
	if s.chunk.Usage != nil {
		c, used := s.chunk, usageOf(s.result.Usage)
		c.Choices, c.Usage = []chunkChoice{}, &used
		if err := s.Send("", c); err != nil {
			return err
		}
	}
	return s.Done()
}

// fail tells the caller of err: as the response, with its own status, or as the
// last frame of a stream that has begun. Whatever breaks a stream after its caller
// has left is no failure of ours.
func (s *completionStream) fail(r *http.Request, err error) error {
	if s.Withdraw() {
		return openAIFailure(s.w, r, err)
	}
	if left := r.Context().Err(); left != nil {
		return left
	}
	_, body := faultOf(err, s.id)
	if sent := s.Send("", body); sent != nil {
		return err
	}
	return api.Told(err)
}
