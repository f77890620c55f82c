# Completes trustgate in PowerShell. Made by `trustgate completion powershell` from the program itself: do not edit.

Register-ArgumentCompleter -Native -CommandName trustgate -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $commands = @{
        'trustgate' = @(
            'demo|Try everything in a few seconds: offline, in a temporary folder',
            'init|Write trustgate.toml: find the LLM server, ask a few questions',
            'serve|Run the gateway until SIGTERM or Ctrl-C',
            'connect|Configure a client program for this gateway: codex, claude-code, opencode …',
            'tenant|Tenants: the users of the gateway, each with keys and a plan',
            'key|API keys of tenants',
            'plan|Plans: limits, and which models and endpoints are allowed',
            'budget|Budgets: how much tenants, keys and end users may use, alone or together',
            'end-user|End users: the users of an app behind a key, by pseudonym',
            'passport|Models: where they are served, and at what price',
            'profile|Profiles: model names, parameters and upstream keys of a plan, a tenant or a key',
            'usage|Show requests, tokens and cost',
            'receipt|Receipts: the provable record of each request',
            'statement|Monthly statements that prove themselves',
            'payment|Payments (x402): each tenant''s terms, and payments received',
            'anchor|Anchors: the log of receipts on Solana, one transaction for all of them since the last',
            'export|Export receipts or usage as JSON lines, CSV or Parquet',
            'top|Watch the running gateway',
            'console|Open the console: pages to watch and manage the running gateway',
            'doctor|Find what is wrong, and how to fix it',
            'notify|Notices: tell people of budgets, keys, upstreams and other conditions',
            'reload|Reload the settings of the running server',
            'config|Settings in effect, and where each comes from',
            'node|Nodes: the processes that serve one Postgres database',
            'backup|Back up the home folder into one file',
            'restore|Restore a backup',
            'archive|Move old receipts out of the database, into Parquet files',
            'compact|Make the database file smaller',
            'migrate|Move the database to Postgres, or back into a file',
            'accept-loss|Accept that data is lost, and start without it',
            'localnet|Run a local Solana for development until SIGTERM or Ctrl-C',
            'completion|Completion of the command line, for your shell',
            'version|Show the versions of TrustGate and of what it runs on'
        )
        'trustgate tenant' = @(
            'add|Add a tenant with its first key',
            'list|List the tenants',
            'show|Show a tenant with its keys, and where it stands at its plan''s limits',
            'set|Rename a tenant, move it to another plan, or change what it is billed, from the next request on',
            'suspend|Refuse a tenant''s requests',
            'resume|Serve a suspended tenant again',
            'remove|Remove a tenant',
            'restore|Undo a removal: the tenant, the keys that died with it, its limits and its balance are there again',
            'credit|Show a tenant''s balance, or add to it',
            'correct|Give back what a mistaken price billed: the difference to the price now, or to the one given'
        )
        'trustgate key' = @(
            'create|Create another key',
            'list|List the keys',
            'show|Show a key and its limits, not its secret',
            'set|Change a key, in effect from its next request on',
            'revoke|Revoke a key now',
            'rotate|Replace a key by a new one'
        )
        'trustgate plan' = @(
            'add|Add a plan',
            'set|Change a plan, in effect from the next request on',
            'list|List the plans',
            'show|Show a plan',
            'remove|Remove a plan that no tenant is on'
        )
        'trustgate budget' = @(
            'status|Show where budgets stand: used, held for what is under way, left, and when they begin anew',
            'add|Add a budget',
            'set|Change a budget, in effect from the next request on',
            'remove|Remove a budget',
            'list|List the budgets: how much, and for whom',
            'show|Show one budget, and where it stands'
        )
        'trustgate end-user' = @(
            'list|List a tenant''s end users, the dearest first',
            'show|Show an end user: its pseudonym, what it has used, and where its budgets stand',
            'block|Refuse an end user''s requests, from the next one on',
            'unblock|Serve a blocked end user again',
            'limit|Give an end user another amount of a budget than the others have'
        )
        'trustgate passport' = @(
            'add|Add a model',
            'set|Change a passport',
            'list|List the models',
            'show|Show a passport',
            'resolve|Explain what a model''s name means to a tenant',
            'deprecate|Mark a model as going away; it still serves',
            'revoke|Stop serving a model, under all its names',
            'activate|Serve a deprecated or revoked model again',
            'import|Import models and prices from LiteLLM''s files',
            'alias|Give a model an alias',
            'prices|Prices: what a model costs, and the list of prices'
        )
        'trustgate passport prices' = @(
            'show|Show what a model costs now, and where its price comes from; or which price a receipt''s price_hash stands for',
            'history|Show the prices that a passport has had of its own, the oldest first',
            'update|Renew the price list'
        )
        'trustgate profile' = @(
            'set|Add to a profile',
            'show|Show a profile',
            'list|List the profiles',
            'clear|Take a whole profile away, in effect from the next request on'
        )
        'trustgate receipt' = @(
            'list|List receipts, the newest first',
            'show|Show a receipt, with the secret that opens its commitments',
            'export|Export a receipt as a bundle that can be verified offline: its proof, checkpoint and anchor with it',
            'mend|Store receipts that the database could not hold before, and list those that it still cannot',
            'verify|Check a bundle, offline and without a database'
        )
        'trustgate statement' = @(
            'make|Make a tenant''s statement of a month; the word make can be left out',
            'list|List the months in which a tenant has receipts',
            'verify|Check a statement, offline and without a database: add every sum up again from its receipts'
        )
        'trustgate payment' = @(
            'set|Set or change how a tenant pays',
            'off|Stop charging a tenant',
            'open|Sell to callers without an API key, at this tenant''s terms and within its plan',
            'close|Stop selling to callers without an API key',
            'terms|Show each tenant''s payment terms and balance',
            'list|List payments, the newest first',
            'show|Show a payment, from its claim to its end; with --json also what was signed',
            'refresh|Ask facilitators again where they settle and who pays the fees; offers follow',
            'reconcile|Look up on the chains the payments whose outcome is unknown',
            'resolve|Set the outcome of an unknown payment that no node can look up, after looking it up yourself',
            'refund-credit|Reduce a tenant''s balance by a refund, with a receipt',
            'keygen|Make the key with which the gateway settles Solana payments itself'
        )
        'trustgate anchor' = @(
            'flush|Post the log''s state to Solana: one transaction for all receipts since the last anchor',
            'list|List the anchors, the oldest first',
            'status|Show the log''s name and keys, and how much of it is anchored',
            'verify|Check every anchor from chain data alone, and against the log here',
            'keygen|Make the key that pays for anchors'
        )
        'trustgate export' = @(
            'receipts|Export receipts, in the log''s order: one row each, without the secrets that open their commitments',
            'usage|Export usage: one row for each day (UTC), tenant, key, endpoint and model'
        )
        'trustgate notify' = @(
            'add|Add a webhook or a program',
            'list|List who is told of what, and how deliveries go',
            'show|Show a subscriber and its recent deliveries, the newest first',
            'remove|Remove a subscriber; what waits for it is given up',
            'test|Send a test now and show what comes of it; fails unless every one arrives'
        )
        'trustgate config' = @(
            'show|Show every setting, and where its value comes from'
        )
        'trustgate node' = @(
            'list|List the processes that serve the database'
        )
        'trustgate completion' = @(
            'bash|eval "$(trustgate completion bash)" in ~/.bashrc',
            'zsh|trustgate completion zsh > "${fpath[1]}/_trustgate"',
            'fish|trustgate completion fish > ~/.config/fish/completions/trustgate.fish',
            'powershell|trustgate completion powershell | Out-String | Invoke-Expression, in $PROFILE'
        )
    }
    $options = @{
        'trustgate' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--home|folder|The folder with the database and trustgate.toml',
            '--version||Show the version and exit'
        )
        'trustgate demo' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--port|any|The gateway''s port; 0 lets the system choose',
            '--exit||Exit after the tour, instead of serving on',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate init' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--at|any|Where to look for LLM servers, instead of the usual ports of this machine; repeat for more',
            '--models||Whether to add the models of the servers found, with prices and limits',
            '--no-models||Whether to add the models of the servers found, with prices and limits',
            '--yes||Ask nothing, accept the proposals',
            '-y||Ask nothing, accept the proposals',
            '--force||Replace a settings file; the old one is kept',
            '--host|any|The address to listen on; 0.0.0.0 is every interface',
            '--port|any|The port; 0 lets the system choose',
            '--store|any|A Postgres database in place of the file in the home folder: postgresql://user@host/database',
            '--workers|any|How many processes serve the port',
            '--wait||Where another process serves the database, wait until it has ended, as a spare',
            '--upstream|any|Base URL of the LLM server (OpenAI-compatible)',
            '--upstream-key-env|any|Name of the environment variable that holds the LLM server''s key',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate serve' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--host|any|The address to listen on; 0.0.0.0 is every interface',
            '--port|any|The port; 0 lets the system choose',
            '--store|any|A Postgres database in place of the file in the home folder: postgresql://user@host/database',
            '--workers|any|How many processes serve the port',
            '--wait||Where another process serves the database, wait until it has ended, as a spare',
            '--upstream|any|Base URL of the LLM server (OpenAI-compatible)',
            '--upstream-key-env|any|Name of the environment variable that holds the LLM server''s key'
        )
        'trustgate connect' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--list||List the programs that can be connected',
            '--model|any|The model it uses',
            '--url|any|The gateway''s address as the client sees it',
            '--key-variable|any|The environment variable that holds the key: configurations name it, and never hold the key itself',
            '--key-stdin||Read the key for --check from stdin instead of the variable',
            '--new-key|tenant|Make a key of this tenant, shown only once',
            '--file|file|Another file than the program''s own',
            '--write||Put it into the program''s file; what was there before is kept beside it',
            '--undo||Put back what the file was before the last --write',
            '--check||Send a first request with it: by the program itself in a folder of its own, or, where it is not installed, by the same request',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate tenant' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate tenant add' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--plan|plan|The plan: free, pro, growth, internal, or one that you added',
            '--price-factor|any|What it is billed of what models cost: 1.2 is a markup of 20 %',
            '--secret-only||Print only the secret: KEY=$(trustgate …)',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate tenant list' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--removed||Include removed tenants',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate tenant show' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate tenant set' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--name|any|A new name',
            '--plan|plan|Another plan, in effect from the next request on',
            '--price-factor|any|What it is billed of what models cost, instead of what its plan says; none: as its plan says',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate tenant suspend' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate tenant resume' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate tenant remove' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--yes||Do not ask',
            '-y||Do not ask',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate tenant restore' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--name|any|A new name, where its own is another tenant''s now',
            '--plan|plan|Another plan, where its own is gone',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate tenant credit' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--add|any|The amount to add, for requests to draw on',
            '--reference|any|Your name for it, an invoice''s number: added again, it counts once',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate tenant correct' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--for|receipt|This receipt alone',
            '--since|any|Start: 7d, today, month or 2026-01-31 (UTC)',
            '--until|any|End, exclusive',
            '--model|any|Requests for this model alone, or a glob of names',
            '--input-price|any|The price it should have been, per million prompt tokens',
            '--output-price|any|The price it should have been, per million completion tokens',
            '--cached-input-price|any|The price it should have been, per million cached prompt tokens',
            '--price-factor|any|The factor it should have been',
            '--reference|any|Your name for the credit',
            '--yes||Book it, and do not ask',
            '-y||Book it, and do not ask',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate key' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate key create' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--name|any|A name for the key',
            '--expires|any|Expires after 30d, 24h, 90m …, or at 2027-01-31 (0:00 UTC)',
            '--secret-only||Print only the secret: KEY=$(trustgate …)',
            '--requests-per-minute|any|Requests a minute',
            '--requests-per-day|any|Requests a day',
            '--requests-per-month|any|Requests a month',
            '--tokens-per-minute|any|Tokens a minute',
            '--tokens-per-day|any|Tokens a day',
            '--tokens-per-month|any|Tokens a month',
            '--usd-per-minute|any|Spending a minute',
            '--usd-per-day|any|Spending a day',
            '--usd-per-month|any|Spending a month',
            '--parallel-requests|any|Requests at the same time',
            '--max-tokens|any|Largest completion of one request, in tokens',
            '--max-prompt-tokens|any|Largest prompt of one request, in tokens',
            '--models|passport|Models, as globs: ''openai/*''',
            '--endpoints|any|Endpoints: chat.completions, completions, embeddings, responses, messages, moderations, rerank, images.generations, images.edits, audio.speech, audio.transcriptions, audio.translations, files, batches, images.variations, conversations, vector_stores, uploads, containers, videos, assistants, threads, evals, fine_tuning, skills, audio.voices, models, content_provenance_checks, tokenize',
            '--features|any|Features: streaming, tools, vision, audio, files, structured_outputs, logprobs, multiple_choices, background, unmetered_calls, or ''*''',
            '--parameters|any|Members that steer an upstream and may be sent: provider, fallbacks …',
            '--end-users|any|Where requests name an app''s own users: user (of the body), header:NAME',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate key list' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--revoked||Include revoked keys',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate key show' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate key set' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--name|any|A new name',
            '--expires|any|Expires after 30d, 24h, 90m … from now, at 2027-01-31 (0:00 UTC); none: it never expires',
            '--requests-per-minute|any|Requests a minute',
            '--requests-per-day|any|Requests a day',
            '--requests-per-month|any|Requests a month',
            '--tokens-per-minute|any|Tokens a minute',
            '--tokens-per-day|any|Tokens a day',
            '--tokens-per-month|any|Tokens a month',
            '--usd-per-minute|any|Spending a minute',
            '--usd-per-day|any|Spending a day',
            '--usd-per-month|any|Spending a month',
            '--parallel-requests|any|Requests at the same time',
            '--max-tokens|any|Largest completion of one request, in tokens',
            '--max-prompt-tokens|any|Largest prompt of one request, in tokens',
            '--models|passport|Models, as globs: ''openai/*''',
            '--endpoints|any|Endpoints: chat.completions, completions, embeddings, responses, messages, moderations, rerank, images.generations, images.edits, audio.speech, audio.transcriptions, audio.translations, files, batches, images.variations, conversations, vector_stores, uploads, containers, videos, assistants, threads, evals, fine_tuning, skills, audio.voices, models, content_provenance_checks, tokenize',
            '--features|any|Features: streaming, tools, vision, audio, files, structured_outputs, logprobs, multiple_choices, background, unmetered_calls, or ''*''',
            '--parameters|any|Members that steer an upstream and may be sent: provider, fallbacks …',
            '--end-users|any|Where requests name an app''s own users: user (of the body), header:NAME',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate key revoke' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate key rotate' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--grace|any|How long the old secret stays valid: 24h, 30m …, or until a date',
            '--secret-only||Print only the secret: KEY=$(trustgate …)',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate plan' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate plan add' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--like|plan|Begin with what this plan has; change what is given',
            '--on-disconnect|words:abort drain|When a client hangs up: abort the LLM server''s answer, or read it to its end for exact usage',
            '--price-factor|any|What tenants are billed of what models cost: 1.2 is a markup of 20 %, 0.9 a discount of 10 %',
            '--unpriced-models|words:refuse allow|Models without a price, where spending is limited or paid for: refuse them, or serve them at no cost',
            '--own-keys|any|How many keys at once each tenant may make for itself, on its account page or over the API; 0: none',
            '--requests-per-minute|any|Requests a minute',
            '--requests-per-day|any|Requests a day',
            '--requests-per-month|any|Requests a month',
            '--tokens-per-minute|any|Tokens a minute',
            '--tokens-per-day|any|Tokens a day',
            '--tokens-per-month|any|Tokens a month',
            '--usd-per-minute|any|Spending a minute',
            '--usd-per-day|any|Spending a day',
            '--usd-per-month|any|Spending a month',
            '--parallel-requests|any|Requests at the same time',
            '--max-tokens|any|Largest completion of one request, in tokens',
            '--max-prompt-tokens|any|Largest prompt of one request, in tokens',
            '--models|passport|Models, as globs: ''openai/*''',
            '--endpoints|any|Endpoints: chat.completions, completions, embeddings, responses, messages, moderations, rerank, images.generations, images.edits, audio.speech, audio.transcriptions, audio.translations, files, batches, images.variations, conversations, vector_stores, uploads, containers, videos, assistants, threads, evals, fine_tuning, skills, audio.voices, models, content_provenance_checks, tokenize',
            '--features|any|Features: streaming, tools, vision, audio, files, structured_outputs, logprobs, multiple_choices, background, unmetered_calls, or ''*''',
            '--parameters|any|Members that steer an upstream and may be sent: provider, fallbacks …',
            '--end-users|any|Where requests name an app''s own users: user (of the body), header:NAME',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate plan set' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--on-disconnect|words:abort drain|When a client hangs up: abort the LLM server''s answer, or read it to its end for exact usage',
            '--price-factor|any|What tenants are billed of what models cost: 1.2 is a markup of 20 %, 0.9 a discount of 10 %',
            '--unpriced-models|words:refuse allow|Models without a price, where spending is limited or paid for: refuse them, or serve them at no cost',
            '--own-keys|any|How many keys at once each tenant may make for itself, on its account page or over the API; 0: none',
            '--requests-per-minute|any|Requests a minute',
            '--requests-per-day|any|Requests a day',
            '--requests-per-month|any|Requests a month',
            '--tokens-per-minute|any|Tokens a minute',
            '--tokens-per-day|any|Tokens a day',
            '--tokens-per-month|any|Tokens a month',
            '--usd-per-minute|any|Spending a minute',
            '--usd-per-day|any|Spending a day',
            '--usd-per-month|any|Spending a month',
            '--parallel-requests|any|Requests at the same time',
            '--max-tokens|any|Largest completion of one request, in tokens',
            '--max-prompt-tokens|any|Largest prompt of one request, in tokens',
            '--models|passport|Models, as globs: ''openai/*''',
            '--endpoints|any|Endpoints: chat.completions, completions, embeddings, responses, messages, moderations, rerank, images.generations, images.edits, audio.speech, audio.transcriptions, audio.translations, files, batches, images.variations, conversations, vector_stores, uploads, containers, videos, assistants, threads, evals, fine_tuning, skills, audio.voices, models, content_provenance_checks, tokenize',
            '--features|any|Features: streaming, tools, vision, audio, files, structured_outputs, logprobs, multiple_choices, background, unmetered_calls, or ''*''',
            '--parameters|any|Members that steer an upstream and may be sent: provider, fallbacks …',
            '--end-users|any|Where requests name an app''s own users: user (of the body), header:NAME',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate plan list' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate plan show' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate plan remove' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate budget' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate budget status' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate budget add' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--usd|any|The amount, in USD',
            '--tokens|any|The amount, in tokens',
            '--requests|any|The amount, in requests',
            '--per|any|minute, hour, day, week or month (UTC); a rolling span: 6h, 30d; or total',
            '--tenant|tenant|For this tenant',
            '--key|key|For this key, and those that it is rotated to',
            '--plan|plan|For the tenants on this plan',
            '--everyone||For every tenant',
            '--each|words:all tenant key end-user|all: one amount that all of them share',
            '--models|passport|Only these models, as globs: ''openai/*''',
            '--hard||Refuse what would pass it (--hard), or only give notice',
            '--soft||Refuse what would pass it (--hard), or only give notice',
            '--notice-at|any|Give notice at these percentages: 50,80,100, which is how a budget begins; or none',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate budget set' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--name|any|A new name',
            '--usd|any|The amount, in USD',
            '--tokens|any|The amount, in tokens',
            '--requests|any|The amount, in requests',
            '--per|any|minute, hour, day, week or month (UTC); a rolling span: 6h, 30d; or total',
            '--tenant|tenant|For this tenant',
            '--key|key|For this key, and those that it is rotated to',
            '--plan|plan|For the tenants on this plan',
            '--everyone||For every tenant',
            '--each|words:all tenant key end-user|all: one amount that all of them share',
            '--models|passport|Only these models, as globs: ''openai/*''',
            '--hard||Refuse what would pass it (--hard), or only give notice',
            '--soft||Refuse what would pass it (--hard), or only give notice',
            '--notice-at|any|Give notice at these percentages: 50,80,100, which is how a budget begins; or none',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate budget remove' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate budget list' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate budget show' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate end-user' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate end-user list' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--since|any|Start: 7d, today, month or 2026-01-31 (UTC)',
            '--limit|any|At most so many',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate end-user show' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate end-user block' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate end-user unblock' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate end-user limit' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--budget|budget|A budget made with --each end-user',
            '--usd|any|Its own amount, in USD',
            '--number|any|Its own amount, in tokens or requests',
            '--reset||Give back the budget''s amount',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate passport' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate passport add' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--yes||Take prices that look like a slip of the unit, too',
            '--api-model-id|any|The LLM server''s name for the model',
            '--provider|any|The provider, such as openai',
            '--format|words:api safetensors gguf|The kind of model',
            '--base-url|any|The LLM server, if not the default one: https://…/v1',
            '--credential-env|any|Name of the environment variable with its key',
            '--credential-file|file|Or the file with its key; relative to the home folder',
            '--context-length|any|Prompt and completion together, in tokens',
            '--max-output-tokens|any|The largest completion, in tokens',
            '--free||The model costs nothing; any price given later ends that',
            '--input-price|any|Per million prompt tokens, in USD',
            '--output-price|any|Per million completion tokens, in USD',
            '--cached-input-price|any|Per million cached prompt tokens; without it they cost what others do',
            '--cache-write-price|any|Per million prompt tokens written to the cache',
            '--cache-write-1h-price|any|Per million of them that are kept for an hour',
            '--reasoning-price|any|Per million reasoning tokens, if they cost other than output',
            '--audio-input-price|any|Per million audio tokens heard',
            '--audio-output-price|any|Per million audio tokens spoken',
            '--image-input-price|any|Per million image tokens seen',
            '--image-output-price|any|Per million image tokens made',
            '--call-price|any|Added once a call, in USD',
            '--image-price|any|Per image made, in USD',
            '--search-price|any|Per search that a tool made, in USD',
            '--audio-second-price|any|Per second of audio heard, in USD',
            '--character-price|any|Per million characters spoken, in USD',
            '--above-prompt-tokens|any|The prices given hold for prompts of more tokens than this alone',
            '--service-tier|any|… for this tier alone: flex, priority, batch',
            '--image-size|any|… for images of this size alone: 1024x1024',
            '--image-quality|any|… for images of this quality alone: hd',
            '--price-from|any|… from this time on: 2027-01-31 (0:00 UTC)',
            '--price-until|any|… before this time',
            '--clear-conditions||Take away all prices that hold under a condition',
            '--capability|any|tools, vision …; repeat for more',
            '--fallback|passport|Passports to try when this one fails; the next --fallback is tried after those',
            '--pool|passport|Passports that serve the same model beside it: other servers, or other keys',
            '--context-fallback|passport|Passports to try only where the prompt is too long for this one; the next one is tried after those',
            '--parameter|any|Default request parameter, as NAME=JSON: temperature=0.2; repeat for more',
            '--weight|any|Its own share beside the --pool',
            '--choice|words:weighted least-busy tenant conversation|Which of the pool is asked first: by weight, the least busy, or always the same for a tenant or a conversation',
            '--upstream-requests-per-minute|any|What its server is sent at most',
            '--upstream-tokens-per-minute|any|The same, in tokens',
            '--upstream-parallel-requests|any|The same, at one time',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate passport set' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--yes||Take prices that look like a slip of the unit, too',
            '--api-model-id|any|The LLM server''s name for the model',
            '--provider|any|The provider, such as openai',
            '--format|words:api safetensors gguf|The kind of model',
            '--base-url|any|The LLM server, if not the default one: https://…/v1',
            '--credential-env|any|Name of the environment variable with its key',
            '--credential-file|file|Or the file with its key; relative to the home folder',
            '--context-length|any|Prompt and completion together, in tokens',
            '--max-output-tokens|any|The largest completion, in tokens',
            '--free||The model costs nothing; any price given later ends that',
            '--input-price|any|Per million prompt tokens, in USD',
            '--output-price|any|Per million completion tokens, in USD',
            '--cached-input-price|any|Per million cached prompt tokens; without it they cost what others do',
            '--cache-write-price|any|Per million prompt tokens written to the cache',
            '--cache-write-1h-price|any|Per million of them that are kept for an hour',
            '--reasoning-price|any|Per million reasoning tokens, if they cost other than output',
            '--audio-input-price|any|Per million audio tokens heard',
            '--audio-output-price|any|Per million audio tokens spoken',
            '--image-input-price|any|Per million image tokens seen',
            '--image-output-price|any|Per million image tokens made',
            '--call-price|any|Added once a call, in USD',
            '--image-price|any|Per image made, in USD',
            '--search-price|any|Per search that a tool made, in USD',
            '--audio-second-price|any|Per second of audio heard, in USD',
            '--character-price|any|Per million characters spoken, in USD',
            '--above-prompt-tokens|any|The prices given hold for prompts of more tokens than this alone',
            '--service-tier|any|… for this tier alone: flex, priority, batch',
            '--image-size|any|… for images of this size alone: 1024x1024',
            '--image-quality|any|… for images of this quality alone: hd',
            '--price-from|any|… from this time on: 2027-01-31 (0:00 UTC)',
            '--price-until|any|… before this time',
            '--clear-conditions||Take away all prices that hold under a condition',
            '--capability|any|tools, vision …; repeat for more',
            '--fallback|passport|Passports to try when this one fails; the next --fallback is tried after those',
            '--pool|passport|Passports that serve the same model beside it: other servers, or other keys',
            '--context-fallback|passport|Passports to try only where the prompt is too long for this one; the next one is tried after those',
            '--parameter|any|Default request parameter, as NAME=JSON: temperature=0.2; repeat for more',
            '--weight|any|Its own share beside the --pool',
            '--choice|words:weighted least-busy tenant conversation|Which of the pool is asked first: by weight, the least busy, or always the same for a tenant or a conversation',
            '--upstream-requests-per-minute|any|What its server is sent at most',
            '--upstream-tokens-per-minute|any|The same, in tokens',
            '--upstream-parallel-requests|any|The same, at one time',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate passport list' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--revoked||Include revoked passports',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate passport show' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate passport resolve' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--tenant|tenant|The tenant''s name or id',
            '--key|key|One of its keys',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate passport deprecate' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate passport revoke' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate passport activate' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate passport import' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--prices|file|A table of prices for models without a price in config.yaml',
            '--direct||Call OpenAI-compatible providers directly, not through LiteLLM',
            '--yes||Take prices that look like a slip of the unit, too',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate passport alias' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--list||List the aliases',
            '--remove|any|Remove an alias',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate passport prices' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate passport prices show' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate passport prices history' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate passport prices update' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--from-litellm|any|LiteLLM''s model_prices_and_context_window.json instead: a file, or its https:// address',
            '--as-of|any|The date of LiteLLM''s prices',
            '--yes||Take it from now on, not only show what it changes',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate profile' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate profile set' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--plan|plan|Of all tenants on this plan',
            '--tenant|tenant|Of this tenant',
            '--key|key|Of this key alone',
            '--name|any|A name of its own for a model, before all others: gpt-4=llama',
            '--only-own-names|words:yes no|No models but those with a --name',
            '--default-model|any|For requests that name no model',
            '--unknown-models|words:refuse default|Names that do not exist: refuse them, or take the default model',
            '--set|any|A parameter, whatever the request has: temperature=0',
            '--default|any|A parameter where the request has none',
            '--cap|any|The most a request may ask for: max_tokens=800, reasoning_effort=low',
            '--system|any|A system message put before each request''s own; or @FILE',
            '--provider|any|The providers that may serve, the preferred first',
            '--target|any|The passports that may serve, the preferred first',
            '--header|any|A header for LLM servers, or NAME@PROVIDER; no secret',
            '--header-env|any|A header whose value is in a variable',
            '--header-file|any|A header whose value is in a file',
            '--credential-env|any|The variable with an upstream key of its own for this passport',
            '--credential-file|any|Or the file with that key',
            '--fee|any|What a request with that upstream key is charged, instead of the price',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate profile show' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--plan|plan|Of all tenants on this plan',
            '--tenant|tenant|Of this tenant',
            '--key|key|Of this key alone',
            '--merged||With what the tenant''s and the plan''s profiles add: what holds',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate profile list' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate profile clear' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--plan|plan|Of all tenants on this plan',
            '--tenant|tenant|Of this tenant',
            '--key|key|Of this key alone',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate usage' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--tenant|tenant|Only this tenant',
            '--by|words:day hour model key tenant end_user|Group by',
            '--since|any|Start: 7d, today, month or 2026-01-31 (UTC)',
            '--until|any|End, exclusive',
            '--month|any|A whole month instead: last, this or 2026-10 (UTC)',
            '--plot|file|Also draw requests, tokens and cost into this file (.svg or .png)',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate receipt' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate receipt list' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--tenant|tenant|Only this tenant',
            '--key|key|Only this key, by its id or redacted form',
            '--model|passport|Only models as asked for that match: gpt-4o, ''openai/*''',
            '--status|any|Only this HTTP status: 429, 5xx',
            '--ended|words:complete client_gone upstream_cut cut upstream_error refused credited|Only those that ended so',
            '--since|any|Start: 7d, today, month or 2026-01-31 (UTC)',
            '--until|any|End, exclusive',
            '--limit|any|The most to list',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate receipt show' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate receipt export' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--output|file|The file to write; default: stdout',
            '-o|file|The file to write; default: stdout',
            '--disclose|words:none request response both|Disclose the salt of the request, the response or both: its holder can check or guess it'
        )
        'trustgate receipt mend' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--accept||Accept those that still do not fit: they are not reported again',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate receipt verify' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--rpc|any|Also check the anchor on this Solana cluster or node',
            '--key|any|The log''s verifier key, as its operator publishes it (/log/keys)',
            '--payer|any|The address that pays for the log''s anchors, as its operator publishes it',
            '--request|file|Prove that this file, byte for byte, was the request',
            '--response|file|Prove that this file, byte for byte, was the response',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate statement' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate statement make' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--month|any|2026-10, last or this (UTC)',
            '--format|words:html pdf csv json|The format, if the name of FILE does not show it',
            '--output|file|Where to write: .html, .pdf, .csv, .json, .json.gz',
            '-o|file|Where to write: .html, .pdf, .csv, .json, .json.gz',
            '--issuer|any|Whose statement it is: a name for its head',
            '--force||Replace FILE if it exists',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate statement list' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate statement verify' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--previous|file|A statement of a month before, for the opening balance; repeatable',
            '--key|any|The log''s verifier key, as its operator publishes it (/log/keys)',
            '--payer|any|The address that pays for the log''s anchors',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate payment' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate payment set' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--mode|words:per-request prepaid|Pay for each request, or top up a balance that requests draw on',
            '--network|any|The network to pay on: solana, solana-devnet, base, base-sepolia, or a CAIP-2 id',
            '--pay-to|any|Your wallet on that network; one for each --network',
            '--asset|any|The token, worth one USD; once for all networks, or once for each',
            '--facilitator|any|The facilitator that settles: its URL, or embedded (this gateway; Solana)',
            '--unchecked||Save an offer on an EVM network although its facilitator cannot be reached now; doctor checks it later',
            '--price|any|The price of every request; none: the prices of passports',
            '--top-up|any|The amount of a prepaid top-up',
            '--flow|words:authorization upfront|When a payment is settled: once there is an answer, or upfront, before the LLM server is asked; where that fails, the payment is credited',
            '--contact|any|How the tenant gets more credit: a URL or mail address that refusals name',
            '--decimals|any|Decimals of a token that is not listed here, where no node can be asked',
            '--asset-name|any|Name of its EIP-712 domain (EVM), for such a token',
            '--asset-version|any|Version of its EIP-712 domain (EVM), for such a token',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate payment off' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--network|any|Remove only this network; the others stay',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate payment open' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate payment close' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate payment terms' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate payment list' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--tenant|tenant|Only this tenant',
            '--state|any|Only those in this state (reserved, settling, settled, delivered, credited, unknown, failed)',
            '--limit|any|The most to list',
            '--before|any|Continue a listing: only those before this one',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate payment show' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate payment refresh' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate payment reconcile' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate payment resolve' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--settled|any|It settled, in this transaction: credit its tenant',
            '--failed||It did not settle and never will',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate payment refund-credit' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--amount|any|The amount',
            '--reference|any|Your name for it: refunded again by it, it counts once',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate payment keygen' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--keypair|file|Where to write it',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate anchor' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate anchor flush' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--rpc|any|devnet, testnet, mainnet-beta, local (a chain on this machine), or the URL of an RPC node',
            '--keypair|file|The file with the key that pays, as the Solana CLI writes it',
            '--commitment|words:confirmed finalized|The commitment that the transaction must reach before this is done',
            '--max-fee|any|The highest fee to pay',
            '--mainnet||Allow a URL in --rpc that is of mainnet, where fees are real money',
            '--dry-run||Show what would be posted, and post nothing',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate anchor list' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate anchor status' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate anchor verify' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--rpc|any|devnet, testnet, mainnet-beta, local (a chain on this machine), or the URL of an RPC node',
            '--keypair|file|The file with the key that pays, as the Solana CLI writes it',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate anchor keygen' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--keypair|file|The file with the key that pays, as the Solana CLI writes it',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate export' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate export receipts' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--output|file|Where to write; the ending sets the format',
            '-o|file|Where to write; the ending sets the format',
            '--format|words:jsonl csv parquet|The format, if the name of FILE does not show it',
            '--tenant|tenant|Only this tenant',
            '--since|any|Start: 7d, today, month or 2026-01-31 (UTC)',
            '--until|any|End, exclusive',
            '--force||Replace FILE if it exists',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate export usage' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--output|file|Where to write; the ending sets the format',
            '-o|file|Where to write; the ending sets the format',
            '--format|words:jsonl csv parquet|The format, if the name of FILE does not show it',
            '--tenant|tenant|Only this tenant',
            '--since|any|Start: 7d, today, month or 2026-01-31 (UTC)',
            '--until|any|End, exclusive',
            '--force||Replace FILE if it exists',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate top' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--every|any|Time between two updates, seconds',
            '--once||Print one snapshot and exit',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate console' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--no-open||Only print the link',
            '--end||End all sessions of the console instead, and links that were not used',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate doctor' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--books||Audit the books instead: receipts = log = usage = payments = balances = quotas, every one',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate notify' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate notify add' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--command|any|Run this program instead, with the notice as JSON on its stdin',
            '--on|any|Kinds, repeated or with commas: budget, limit, key, credit, upstream, anchor, certificate, disk, payment, log, all',
            '--name|any|A name for it',
            '--private||Allow an address of this machine or a private network, and http://',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate notify list' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate notify show' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate notify remove' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate notify test' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate reload' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate config' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate config show' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--changed||Only settings that differ from their default',
            '--host|any|The address to listen on; 0.0.0.0 is every interface',
            '--port|any|The port; 0 lets the system choose',
            '--store|any|A Postgres database in place of the file in the home folder: postgresql://user@host/database',
            '--workers|any|How many processes serve the port',
            '--wait||Where another process serves the database, wait until it has ended, as a spare',
            '--upstream|any|Base URL of the LLM server (OpenAI-compatible)',
            '--upstream-key-env|any|Name of the environment variable that holds the LLM server''s key',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate node' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate node list' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate backup' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--force||Replace FILE if it exists',
            '--without-archives||Leave archive files out, which never change; they are named',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate restore' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--new-log||Continue as a log of another name, although the old log has newer receipts',
            '--dry-run||Check the backup and the home; change nothing',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate archive' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--before|any|Move receipts made before then: 2026-01, 2026-01-15, 90d',
            '--to|any|Where to put the files, instead of HOME/archive',
            '--dry-run||Show what would be moved, and move nothing',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate compact' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate migrate' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--to|any|Move the database file to this Postgres database',
            '--from|any|Move this Postgres database into a file in the home',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate accept-loss' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--yes||Do it; else what is missing is shown, and nothing changed',
            '--json||Print one JSON document, nothing else'
        )
        'trustgate localnet' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--host|any|The address to listen on; every client that reaches it can use the chain',
            '--port|any|The port; 0 lets the system choose',
            '--slot-ms|any|How long a slot lasts, milliseconds',
            '--ephemeral||Keep nothing: a new chain, discarded at the end',
            '--fund|any|Fund this address with 10 SOL of this chain at the start; repeat for more',
            '--verbose||Print a line for each transaction that lands',
            '-v||Print a line for each transaction that lands'
        )
        'trustgate completion' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate completion bash' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate completion zsh' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate completion fish' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate completion powershell' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.'
        )
        'trustgate version' = @(
            '--help||Show this message and exit.',
            '-h||Show this message and exit.',
            '--json||Print one JSON document, nothing else'
        )
    }
    $arguments = @{
        'trustgate connect 0' = 'words:codex claude-code opencode aider cline continue open-webui litellm openai anthropic langchain vercel-ai curl'
        'trustgate tenant add 0' = 'any'
        'trustgate tenant show 0' = 'tenant'
        'trustgate tenant set 0' = 'tenant'
        'trustgate tenant suspend 0' = 'tenant'
        'trustgate tenant resume 0' = 'tenant'
        'trustgate tenant remove 0' = 'tenant'
        'trustgate tenant restore 0' = 'tenant'
        'trustgate tenant credit 0' = 'tenant'
        'trustgate tenant correct 0' = 'tenant'
        'trustgate key create 0' = 'tenant'
        'trustgate key list 0' = 'tenant'
        'trustgate key show 0' = 'key'
        'trustgate key set 0' = 'key'
        'trustgate key revoke 0' = 'key'
        'trustgate key rotate 0' = 'key'
        'trustgate plan add 0' = 'any'
        'trustgate plan set 0' = 'plan'
        'trustgate plan show 0' = 'plan'
        'trustgate plan remove 0' = 'plan'
        'trustgate budget status 0' = 'tenant'
        'trustgate budget add 0' = 'any'
        'trustgate budget set 0' = 'budget'
        'trustgate budget remove 0' = 'budget'
        'trustgate budget show 0' = 'budget'
        'trustgate end-user list 0' = 'tenant'
        'trustgate end-user show 0' = 'tenant'
        'trustgate end-user show 1' = 'any'
        'trustgate end-user block 0' = 'tenant'
        'trustgate end-user block 1' = 'any'
        'trustgate end-user unblock 0' = 'tenant'
        'trustgate end-user unblock 1' = 'any'
        'trustgate end-user limit 0' = 'tenant'
        'trustgate end-user limit 1' = 'any'
        'trustgate passport add 0' = 'any'
        'trustgate passport set 0' = 'passport'
        'trustgate passport show 0' = 'passport'
        'trustgate passport resolve 0' = 'any'
        'trustgate passport deprecate 0' = 'passport'
        'trustgate passport revoke 0' = 'passport'
        'trustgate passport activate 0' = 'passport'
        'trustgate passport import 0' = 'file'
        'trustgate passport alias 0' = 'any'
        'trustgate passport alias 1' = 'any'
        'trustgate passport prices show 0' = 'any'
        'trustgate passport prices history 0' = 'passport'
        'trustgate passport prices update 0' = 'file'
        'trustgate receipt show 0' = 'receipt'
        'trustgate receipt export 0' = 'receipt'
        'trustgate receipt verify 0' = 'file'
        'trustgate statement make 0' = 'tenant'
        'trustgate statement list 0' = 'tenant'
        'trustgate statement verify 0' = 'file'
        'trustgate payment set 0' = 'tenant'
        'trustgate payment off 0' = 'tenant'
        'trustgate payment open 0' = 'tenant'
        'trustgate payment close 0' = 'tenant'
        'trustgate payment terms 0' = 'tenant'
        'trustgate payment show 0' = 'any'
        'trustgate payment resolve 0' = 'any'
        'trustgate payment refund-credit 0' = 'tenant'
        'trustgate notify add 0' = 'any'
        'trustgate notify show 0' = 'any'
        'trustgate notify remove 0' = 'any'
        'trustgate notify test 0' = 'any'
        'trustgate backup 0' = 'file'
        'trustgate restore 0' = 'file'
    }
    $dynamic = 'tenant', 'plan', 'passport', 'key', 'receipt'

    # What the words before the cursor mean: the path of the command, its arguments, a flag that waits for its value.
    $path = 'trustgate'
    $count = 0
    $flag = ''
    $homeFolder = @()
    $elements = @($commandAst.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursorPosition })
    foreach ($element in ($elements | Select-Object -Skip 1)) {
        $word = $element.ToString().Trim("'", '"')
        if ($flag) {
            if ($flag -eq '--home') { $homeFolder = @('--home', $word) }
            $flag = ''
        } elseif ($word -like '--home=*') {
            $homeFolder = @($word)
        } elseif ($word -like '-*=*') {
            continue
        } elseif ($word -like '-*') {
            $known = @($options[$path] | Where-Object { $_.Split('|')[0] -ceq $word })
            if ($known.Count -gt 0 -and $known[0].Split('|')[1]) { $flag = $word }
        } elseif (@($commands[$path] | Where-Object { $_ -and $_.Split('|')[0] -ceq $word }).Count -gt 0) {
            $path = "$path $word"
        } else {
            $count += 1
        }
    }

    # The candidates: texts of the form word|help.
    $kind = ''
    $candidates = @()
    if ($flag) {
        $kind = @($options[$path] | Where-Object { $_.Split('|')[0] -ceq $flag })[0].Split('|')[1]
    } elseif ($wordToComplete -like '-*') {
        $candidates = @($options[$path] | ForEach-Object { $name, $value, $help = $_ -split '\|', 3; "$name|$help" })
    } elseif ($commands.ContainsKey($path)) {
        $candidates = @($commands[$path])
    } elseif ($arguments.ContainsKey("$path $count")) {
        $kind = $arguments["$path $count"]
    }
    if ($kind -like 'words:*') {
        $candidates = @($kind.Substring(6) -split ' ' | ForEach-Object { "$_|" })
    } elseif ($kind -in $dynamic) {
        $program = $commandAst.CommandElements[0].ToString()
        $found = & $program @homeFolder completion values $kind 2>$null
        $candidates = @($found | ForEach-Object { $_ -replace "`t", '|' })
    }

    # Nothing: PowerShell completes the names of files.
    $typed = $wordToComplete.Trim("'", '"')
    foreach ($candidate in $candidates) {
        $word, $help = $candidate -split '\|', 2
        if (-not $word.StartsWith($typed)) { continue }
        $text = if ($word -match '[^\w./:@+=-]') { "'" + $word.Replace("'", "''") + "'" } else { $word }
        if (-not $help) { $help = $word }
        [System.Management.Automation.CompletionResult]::new($text, $word, 'ParameterValue', $help)
    }
}
