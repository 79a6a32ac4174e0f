# The OAuth server that stands for Entra ID in tests/entra: an npm package (Node.js 20.19 or newer). Included by the
# Makefile. Without npm those tests are skipped, and fail where CI=true.
OAUTH_SERVER := oauth2-mock-server@8.2.3

test: export LLMBATCH_TEST_OAUTH_MODULES = $(abspath $(VENV))/oauth-server/node_modules
test: $(DONE)/oauth-server

$(DONE)/oauth-server: tests/entra/oauth-server.mk | $(DONE)/venv
	@if ! command -v npm > /dev/null; then \
	  echo 'npm was not found: tests of Entra ID will be skipped'; \
	elif echo 'Installing $(OAUTH_SERVER), in the place of Entra ID' && npm install --silent --ignore-scripts --no-audit \
	  --no-fund --prefix $(VENV)/oauth-server '$(OAUTH_SERVER)'; then touch $@; \
	else echo 'npm could not install $(OAUTH_SERVER): tests of Entra ID will be skipped'; fi
