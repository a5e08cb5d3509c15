package main

import (
	"fmt"
	"io"
	"net"
	"strings"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/model/openai"
	"postern/shared/secret"
	"postern/shared/settings"
)

// welcome tells whoever started the server all that is needed to call it. A
// generated token is shown here and nowhere else, ever.
func welcome(w io.Writer, address net.Addr, s settings.Settings, file *agents.File, generated secret.String) {
	scheme := "http"
	if s.TLSCert != "" {
		scheme = "https"
	}
	_, port, _ := net.SplitHostPort(address.String()) // which the system may have chosen
	url := scheme + "://" + net.JoinHostPort(s.Host, port)
	fmt.Fprintf(w, "[postern] %s, listening on %s\n", api.Version, url)
	for _, a := range file.Agents {
		fmt.Fprintf(w, "[postern] agent %s: %s\n", a.Name, a.Model)
	}
	if !generated.IsEmpty() {
		fmt.Fprintf(w, "[postern] generated API token: %s\n", generated.Reveal())
		fmt.Fprintf(w, "[postern] it is a new one at each start; to keep one, put the line API_TOKEN=<token> into .env\n")
	}
	credential := "-H 'Authorization: Bearer <token>' "
	if s.AuthDisabled {
		credential = ""
	}
	fmt.Fprintf(w, "[postern] try: curl %s%s/agents\n", credential, url)
	if names := offlineAgents(file); names != "" {
		warn(w, "offline/eliza answers for "+names+": a program of 1966 and no language model; set MODEL or an agent's llm to change that")
	}
	if names := keylessAgents(file, s); names != "" {
		warn(w, names+": openai/… models answer them, but neither OPENAI_API_KEY nor OPENAI_BASE_URL is set; set the key, or the URL of a server that takes none")
	}
	for _, text := range s.Warnings {
		warn(w, text)
	}
}

// keylessAgents lists the agents whose every chat OpenAI's own server would refuse.
func keylessAgents(file *agents.File, s settings.Settings) string {
	if !s.OpenAIKey.IsEmpty() || s.OpenAIBaseURL != "" {
		return ""
	}
	var names []string
	for _, a := range file.Agents {
		if a.Model.Provider == openai.Provider {
			names = append(names, a.Name)
		}
	}
	return strings.Join(names, ", ")
}

func warn(w io.Writer, text string) { fmt.Fprintf(w, "[postern] warning: %s\n", text) }
