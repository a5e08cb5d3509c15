// Bare is the baseline of the local server: net/http handlers that write the
// status line, headers and body that GET /agents and POST /chat have, and do
// nothing for it but run the chat's model. It takes the body of GET /agents as a
// file, reads agents.yaml, and prints its address.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"

	"postern/shared/agents"
	"postern/shared/model"
	"postern/shared/model/offline"
)

func main() {
	body, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	file, err := agents.Load("agents.yaml", offline.FullName)
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("http://" + l.Addr().String())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /agents", func(w http.ResponseWriter, _ *http.Request) { write(w, body) })
	mux.HandleFunc("POST /chat", chat(offline.New(), file.Agents[0]))
	log.Fatal(http.Serve(l, mux))
}

// chat runs the model for whoever asks.
func chat(m model.Model, a agents.Agent) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request struct{ Message string }
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		var text strings.Builder
		var used model.Usage
		for event, err := range m.Stream(context.Background(), model.Request{
			Model:    a.Model.Name,
			System:   a.SystemPrompt(),
			Messages: []model.Message{{Role: model.User, Text: request.Message}},
		}) {
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			text.WriteString(event.Text)
			if event.Stop != "" {
				used = event.Usage
			}
		}
		reply, _ := json.Marshal(map[string]any{ // plain values always marshal
			"response": text.String(), "status": "success", "agent": a.Name, "model": a.Model.String(),
			"usage": used, "request_id": requestID,
		})
		write(w, reply)
	}
}

const requestID = "AAAAAAAAAAAAAAAAAAAAAAAAAA-123456"

func write(w http.ResponseWriter, body []byte) {
	h := w.Header()
	h["Cache-Control"] = []string{"no-store"}
	h["Content-Type"] = []string{"application/json"}
	h["Ratelimit"] = []string{`"hour";r=999999999;t=3600`}
	h["Ratelimit-Policy"] = []string{`"hour";q=1000000000;w=3600`}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	h["X-Request-Id"] = []string{requestID}
	w.WriteHeader(http.StatusOK)
	w.Write(body)
}
