# Completes trustgate in bash. Made by `trustgate completion bash` from the program itself: do not edit.

__trustgate_commands() {
    case "$1" in
        trustgate) names='demo init serve connect tenant key plan budget end-user passport profile usage receipt statement payment anchor export top console doctor notify reload config node backup restore archive compact migrate accept-loss localnet completion version' ;;
        'trustgate tenant') names='add list show set suspend resume remove restore credit correct' ;;
        'trustgate key') names='create list show set revoke rotate' ;;
        'trustgate plan') names='add set list show remove' ;;
        'trustgate budget') names='status add set remove list show' ;;
        'trustgate end-user') names='list show block unblock limit' ;;
        'trustgate passport') names='add set list show resolve deprecate revoke activate import alias prices' ;;
        'trustgate passport prices') names='show history update' ;;
        'trustgate profile') names='set show list clear' ;;
        'trustgate receipt') names='list show export mend verify' ;;
        'trustgate statement') names='make list verify' ;;
        'trustgate payment') names='set off open close terms list show refresh reconcile resolve refund-credit keygen' ;;
        'trustgate anchor') names='flush list status verify keygen' ;;
        'trustgate export') names='receipts usage' ;;
        'trustgate notify') names='add list show remove test' ;;
        'trustgate config') names=show ;;
        'trustgate node') names=list ;;
        'trustgate completion') names='bash zsh fish powershell' ;;
        *) names= ;;
    esac
}
__trustgate_options() {
    case "$1" in
        trustgate) options='--help
-h
--home
--version' ;;
        'trustgate demo') options='--help
-h
--port
--exit
--json' ;;
        'trustgate init') options='--help
-h
--at
--models
--no-models
--yes
-y
--force
--host
--port
--store
--workers
--wait
--upstream
--upstream-key-env
--json' ;;
        'trustgate serve') options='--help
-h
--host
--port
--store
--workers
--wait
--upstream
--upstream-key-env' ;;
        'trustgate connect') options='--help
-h
--list
--model
--url
--key-variable
--key-stdin
--new-key
--file
--write
--undo
--check
--json' ;;
        'trustgate tenant' | 'trustgate key' | 'trustgate plan' | 'trustgate budget' | 'trustgate end-user' | 'trustgate passport' | 'trustgate passport prices' | 'trustgate profile' | 'trustgate receipt' | 'trustgate statement' | 'trustgate payment' | 'trustgate anchor' | 'trustgate export' | 'trustgate notify' | 'trustgate config' | 'trustgate node' | 'trustgate completion' | 'trustgate completion bash' | 'trustgate completion zsh' | 'trustgate completion fish' | 'trustgate completion powershell') options='--help
-h' ;;
        'trustgate tenant add') options='--help
-h
--plan
--price-factor
--secret-only
--json' ;;
        'trustgate tenant list') options='--help
-h
--removed
--json' ;;
        'trustgate tenant show' | 'trustgate tenant suspend' | 'trustgate tenant resume' | 'trustgate key show' | 'trustgate key revoke' | 'trustgate plan list' | 'trustgate plan show' | 'trustgate plan remove' | 'trustgate budget status' | 'trustgate budget remove' | 'trustgate budget list' | 'trustgate budget show' | 'trustgate end-user show' | 'trustgate end-user block' | 'trustgate end-user unblock' | 'trustgate passport show' | 'trustgate passport deprecate' | 'trustgate passport revoke' | 'trustgate passport activate' | 'trustgate passport prices show' | 'trustgate passport prices history' | 'trustgate profile list' | 'trustgate receipt show' | 'trustgate statement list' | 'trustgate payment open' | 'trustgate payment close' | 'trustgate payment terms' | 'trustgate payment show' | 'trustgate payment refresh' | 'trustgate payment reconcile' | 'trustgate anchor list' | 'trustgate anchor status' | 'trustgate notify list' | 'trustgate notify show' | 'trustgate notify remove' | 'trustgate notify test' | 'trustgate reload' | 'trustgate node list' | 'trustgate compact' | 'trustgate version') options='--help
-h
--json' ;;
        'trustgate tenant set') options='--help
-h
--name
--plan
--price-factor
--json' ;;
        'trustgate tenant remove') options='--help
-h
--yes
-y
--json' ;;
        'trustgate tenant restore') options='--help
-h
--name
--plan
--json' ;;
        'trustgate tenant credit') options='--help
-h
--add
--reference
--json' ;;
        'trustgate tenant correct') options='--help
-h
--for
--since
--until
--model
--input-price
--output-price
--cached-input-price
--price-factor
--reference
--yes
-y
--json' ;;
        'trustgate key create') options='--help
-h
--name
--expires
--secret-only
--requests-per-minute
--requests-per-day
--requests-per-month
--tokens-per-minute
--tokens-per-day
--tokens-per-month
--usd-per-minute
--usd-per-day
--usd-per-month
--parallel-requests
--max-tokens
--max-prompt-tokens
--models
--endpoints
--features
--parameters
--end-users
--json' ;;
        'trustgate key list' | 'trustgate passport list') options='--help
-h
--revoked
--json' ;;
        'trustgate key set') options='--help
-h
--name
--expires
--requests-per-minute
--requests-per-day
--requests-per-month
--tokens-per-minute
--tokens-per-day
--tokens-per-month
--usd-per-minute
--usd-per-day
--usd-per-month
--parallel-requests
--max-tokens
--max-prompt-tokens
--models
--endpoints
--features
--parameters
--end-users
--json' ;;
        'trustgate key rotate') options='--help
-h
--grace
--secret-only
--json' ;;
        'trustgate plan add') options='--help
-h
--like
--on-disconnect
--price-factor
--unpriced-models
--own-keys
--requests-per-minute
--requests-per-day
--requests-per-month
--tokens-per-minute
--tokens-per-day
--tokens-per-month
--usd-per-minute
--usd-per-day
--usd-per-month
--parallel-requests
--max-tokens
--max-prompt-tokens
--models
--endpoints
--features
--parameters
--end-users
--json' ;;
        'trustgate plan set') options='--help
-h
--on-disconnect
--price-factor
--unpriced-models
--own-keys
--requests-per-minute
--requests-per-day
--requests-per-month
--tokens-per-minute
--tokens-per-day
--tokens-per-month
--usd-per-minute
--usd-per-day
--usd-per-month
--parallel-requests
--max-tokens
--max-prompt-tokens
--models
--endpoints
--features
--parameters
--end-users
--json' ;;
        'trustgate budget add') options='--help
-h
--usd
--tokens
--requests
--per
--tenant
--key
--plan
--everyone
--each
--models
--hard
--soft
--notice-at
--json' ;;
        'trustgate budget set') options='--help
-h
--name
--usd
--tokens
--requests
--per
--tenant
--key
--plan
--everyone
--each
--models
--hard
--soft
--notice-at
--json' ;;
        'trustgate end-user list') options='--help
-h
--since
--limit
--json' ;;
        'trustgate end-user limit') options='--help
-h
--budget
--usd
--number
--reset
--json' ;;
        'trustgate passport add' | 'trustgate passport set') options='--help
-h
--yes
--api-model-id
--provider
--format
--base-url
--credential-env
--credential-file
--context-length
--max-output-tokens
--free
--input-price
--output-price
--cached-input-price
--cache-write-price
--cache-write-1h-price
--reasoning-price
--audio-input-price
--audio-output-price
--image-input-price
--image-output-price
--call-price
--image-price
--search-price
--audio-second-price
--character-price
--above-prompt-tokens
--service-tier
--image-size
--image-quality
--price-from
--price-until
--clear-conditions
--capability
--fallback
--pool
--context-fallback
--parameter
--weight
--choice
--upstream-requests-per-minute
--upstream-tokens-per-minute
--upstream-parallel-requests
--json' ;;
        'trustgate passport resolve') options='--help
-h
--tenant
--key
--json' ;;
        'trustgate passport import') options='--help
-h
--prices
--direct
--yes
--json' ;;
        'trustgate passport alias') options='--help
-h
--list
--remove
--json' ;;
        'trustgate passport prices update') options='--help
-h
--from-litellm
--as-of
--yes
--json' ;;
        'trustgate profile set') options='--help
-h
--plan
--tenant
--key
--name
--only-own-names
--default-model
--unknown-models
--set
--default
--cap
--system
--provider
--target
--header
--header-env
--header-file
--credential-env
--credential-file
--fee
--json' ;;
        'trustgate profile show') options='--help
-h
--plan
--tenant
--key
--merged
--json' ;;
        'trustgate profile clear') options='--help
-h
--plan
--tenant
--key
--json' ;;
        'trustgate usage') options='--help
-h
--tenant
--by
--since
--until
--month
--plot
--json' ;;
        'trustgate receipt list') options='--help
-h
--tenant
--key
--model
--status
--ended
--since
--until
--limit
--json' ;;
        'trustgate receipt export') options='--help
-h
--output
-o
--disclose' ;;
        'trustgate receipt mend') options='--help
-h
--accept
--json' ;;
        'trustgate receipt verify') options='--help
-h
--rpc
--key
--payer
--request
--response
--json' ;;
        'trustgate statement make') options='--help
-h
--month
--format
--output
-o
--issuer
--force
--json' ;;
        'trustgate statement verify') options='--help
-h
--previous
--key
--payer
--json' ;;
        'trustgate payment set') options='--help
-h
--mode
--network
--pay-to
--asset
--facilitator
--unchecked
--price
--top-up
--flow
--contact
--decimals
--asset-name
--asset-version
--json' ;;
        'trustgate payment off') options='--help
-h
--network
--json' ;;
        'trustgate payment list') options='--help
-h
--tenant
--state
--limit
--before
--json' ;;
        'trustgate payment resolve') options='--help
-h
--settled
--failed
--json' ;;
        'trustgate payment refund-credit') options='--help
-h
--amount
--reference
--json' ;;
        'trustgate payment keygen' | 'trustgate anchor keygen') options='--help
-h
--keypair
--json' ;;
        'trustgate anchor flush') options='--help
-h
--rpc
--keypair
--commitment
--max-fee
--mainnet
--dry-run
--json' ;;
        'trustgate anchor verify') options='--help
-h
--rpc
--keypair
--json' ;;
        'trustgate export receipts' | 'trustgate export usage') options='--help
-h
--output
-o
--format
--tenant
--since
--until
--force
--json' ;;
        'trustgate top') options='--help
-h
--every
--once
--json' ;;
        'trustgate console') options='--help
-h
--no-open
--end
--json' ;;
        'trustgate doctor') options='--help
-h
--books
--json' ;;
        'trustgate notify add') options='--help
-h
--command
--on
--name
--private
--json' ;;
        'trustgate config show') options='--help
-h
--changed
--host
--port
--store
--workers
--wait
--upstream
--upstream-key-env
--json' ;;
        'trustgate backup') options='--help
-h
--force
--without-archives
--json' ;;
        'trustgate restore') options='--help
-h
--new-log
--dry-run
--json' ;;
        'trustgate archive') options='--help
-h
--before
--to
--dry-run
--json' ;;
        'trustgate migrate') options='--help
-h
--to
--from
--json' ;;
        'trustgate accept-loss') options='--help
-h
--yes
--json' ;;
        'trustgate localnet') options='--help
-h
--host
--port
--slot-ms
--ephemeral
--fund
--verbose
-v' ;;
        *) options= ;;
    esac
}
__trustgate_value() {
    case "$1 $2" in
        'trustgate --home') kind=folder ;;
        'trustgate demo --port' | 'trustgate init --at' | 'trustgate init --host' | 'trustgate init --port' | 'trustgate init --store' | 'trustgate init --workers' | 'trustgate init --upstream' | 'trustgate init --upstream-key-env' | 'trustgate serve --host' | 'trustgate serve --port' | 'trustgate serve --store' | 'trustgate serve --workers' | 'trustgate serve --upstream' | 'trustgate serve --upstream-key-env' | 'trustgate connect --model' | 'trustgate connect --url' | 'trustgate connect --key-variable' | 'trustgate tenant add --price-factor' | 'trustgate tenant set --name' | 'trustgate tenant set --price-factor' | 'trustgate tenant restore --name' | 'trustgate tenant credit --add' | 'trustgate tenant credit --reference' | 'trustgate tenant correct --since' | 'trustgate tenant correct --until' | 'trustgate tenant correct --model' | 'trustgate tenant correct --input-price' | 'trustgate tenant correct --output-price' | 'trustgate tenant correct --cached-input-price' | 'trustgate tenant correct --price-factor' | 'trustgate tenant correct --reference' | 'trustgate key create --name' | 'trustgate key create --expires' | 'trustgate key create --requests-per-minute' | 'trustgate key create --requests-per-day' | 'trustgate key create --requests-per-month' | 'trustgate key create --tokens-per-minute' | 'trustgate key create --tokens-per-day' | 'trustgate key create --tokens-per-month' | 'trustgate key create --usd-per-minute' | 'trustgate key create --usd-per-day' | 'trustgate key create --usd-per-month' | 'trustgate key create --parallel-requests' | 'trustgate key create --max-tokens' | 'trustgate key create --max-prompt-tokens' | 'trustgate key create --endpoints' | 'trustgate key create --features' | 'trustgate key create --parameters' | 'trustgate key create --end-users' | 'trustgate key set --name' | 'trustgate key set --expires' | 'trustgate key set --requests-per-minute' | 'trustgate key set --requests-per-day' | 'trustgate key set --requests-per-month' | 'trustgate key set --tokens-per-minute' | 'trustgate key set --tokens-per-day' | 'trustgate key set --tokens-per-month' | 'trustgate key set --usd-per-minute' | 'trustgate key set --usd-per-day' | 'trustgate key set --usd-per-month' | 'trustgate key set --parallel-requests' | 'trustgate key set --max-tokens' | 'trustgate key set --max-prompt-tokens' | 'trustgate key set --endpoints' | 'trustgate key set --features' | 'trustgate key set --parameters' | 'trustgate key set --end-users' | 'trustgate key rotate --grace' | 'trustgate plan add --price-factor' | 'trustgate plan add --own-keys' | 'trustgate plan add --requests-per-minute' | 'trustgate plan add --requests-per-day' | 'trustgate plan add --requests-per-month' | 'trustgate plan add --tokens-per-minute' | 'trustgate plan add --tokens-per-day' | 'trustgate plan add --tokens-per-month' | 'trustgate plan add --usd-per-minute' | 'trustgate plan add --usd-per-day' | 'trustgate plan add --usd-per-month' | 'trustgate plan add --parallel-requests' | 'trustgate plan add --max-tokens' | 'trustgate plan add --max-prompt-tokens' | 'trustgate plan add --endpoints' | 'trustgate plan add --features' | 'trustgate plan add --parameters' | 'trustgate plan add --end-users' | 'trustgate plan set --price-factor' | 'trustgate plan set --own-keys' | 'trustgate plan set --requests-per-minute' | 'trustgate plan set --requests-per-day' | 'trustgate plan set --requests-per-month' | 'trustgate plan set --tokens-per-minute' | 'trustgate plan set --tokens-per-day' | 'trustgate plan set --tokens-per-month' | 'trustgate plan set --usd-per-minute' | 'trustgate plan set --usd-per-day' | 'trustgate plan set --usd-per-month' | 'trustgate plan set --parallel-requests' | 'trustgate plan set --max-tokens' | 'trustgate plan set --max-prompt-tokens' | 'trustgate plan set --endpoints' | 'trustgate plan set --features' | 'trustgate plan set --parameters' | 'trustgate plan set --end-users' | 'trustgate budget add --usd' | 'trustgate budget add --tokens' | 'trustgate budget add --requests' | 'trustgate budget add --per' | 'trustgate budget add --notice-at' | 'trustgate budget set --name' | 'trustgate budget set --usd' | 'trustgate budget set --tokens' | 'trustgate budget set --requests' | 'trustgate budget set --per' | 'trustgate budget set --notice-at' | 'trustgate end-user list --since' | 'trustgate end-user list --limit' | 'trustgate end-user limit --usd' | 'trustgate end-user limit --number' | 'trustgate passport add --api-model-id' | 'trustgate passport add --provider' | 'trustgate passport add --base-url' | 'trustgate passport add --credential-env' | 'trustgate passport add --context-length' | 'trustgate passport add --max-output-tokens' | 'trustgate passport add --input-price' | 'trustgate passport add --output-price' | 'trustgate passport add --cached-input-price' | 'trustgate passport add --cache-write-price' | 'trustgate passport add --cache-write-1h-price' | 'trustgate passport add --reasoning-price' | 'trustgate passport add --audio-input-price' | 'trustgate passport add --audio-output-price' | 'trustgate passport add --image-input-price' | 'trustgate passport add --image-output-price' | 'trustgate passport add --call-price' | 'trustgate passport add --image-price' | 'trustgate passport add --search-price' | 'trustgate passport add --audio-second-price' | 'trustgate passport add --character-price' | 'trustgate passport add --above-prompt-tokens' | 'trustgate passport add --service-tier' | 'trustgate passport add --image-size' | 'trustgate passport add --image-quality' | 'trustgate passport add --price-from' | 'trustgate passport add --price-until' | 'trustgate passport add --capability' | 'trustgate passport add --parameter' | 'trustgate passport add --weight' | 'trustgate passport add --upstream-requests-per-minute' | 'trustgate passport add --upstream-tokens-per-minute' | 'trustgate passport add --upstream-parallel-requests' | 'trustgate passport set --api-model-id' | 'trustgate passport set --provider' | 'trustgate passport set --base-url' | 'trustgate passport set --credential-env' | 'trustgate passport set --context-length' | 'trustgate passport set --max-output-tokens' | 'trustgate passport set --input-price' | 'trustgate passport set --output-price' | 'trustgate passport set --cached-input-price' | 'trustgate passport set --cache-write-price' | 'trustgate passport set --cache-write-1h-price' | 'trustgate passport set --reasoning-price' | 'trustgate passport set --audio-input-price' | 'trustgate passport set --audio-output-price' | 'trustgate passport set --image-input-price' | 'trustgate passport set --image-output-price' | 'trustgate passport set --call-price' | 'trustgate passport set --image-price' | 'trustgate passport set --search-price' | 'trustgate passport set --audio-second-price' | 'trustgate passport set --character-price' | 'trustgate passport set --above-prompt-tokens' | 'trustgate passport set --service-tier' | 'trustgate passport set --image-size' | 'trustgate passport set --image-quality' | 'trustgate passport set --price-from' | 'trustgate passport set --price-until' | 'trustgate passport set --capability' | 'trustgate passport set --parameter' | 'trustgate passport set --weight' | 'trustgate passport set --upstream-requests-per-minute' | 'trustgate passport set --upstream-tokens-per-minute' | 'trustgate passport set --upstream-parallel-requests' | 'trustgate passport alias --remove' | 'trustgate passport prices update --from-litellm' | 'trustgate passport prices update --as-of' | 'trustgate profile set --name' | 'trustgate profile set --default-model' | 'trustgate profile set --set' | 'trustgate profile set --default' | 'trustgate profile set --cap' | 'trustgate profile set --system' | 'trustgate profile set --provider' | 'trustgate profile set --target' | 'trustgate profile set --header' | 'trustgate profile set --header-env' | 'trustgate profile set --header-file' | 'trustgate profile set --credential-env' | 'trustgate profile set --credential-file' | 'trustgate profile set --fee' | 'trustgate usage --since' | 'trustgate usage --until' | 'trustgate usage --month' | 'trustgate receipt list --status' | 'trustgate receipt list --since' | 'trustgate receipt list --until' | 'trustgate receipt list --limit' | 'trustgate receipt verify --rpc' | 'trustgate receipt verify --key' | 'trustgate receipt verify --payer' | 'trustgate statement make --month' | 'trustgate statement make --issuer' | 'trustgate statement verify --key' | 'trustgate statement verify --payer' | 'trustgate payment set --network' | 'trustgate payment set --pay-to' | 'trustgate payment set --asset' | 'trustgate payment set --facilitator' | 'trustgate payment set --price' | 'trustgate payment set --top-up' | 'trustgate payment set --contact' | 'trustgate payment set --decimals' | 'trustgate payment set --asset-name' | 'trustgate payment set --asset-version' | 'trustgate payment off --network' | 'trustgate payment list --state' | 'trustgate payment list --limit' | 'trustgate payment list --before' | 'trustgate payment resolve --settled' | 'trustgate payment refund-credit --amount' | 'trustgate payment refund-credit --reference' | 'trustgate anchor flush --rpc' | 'trustgate anchor flush --max-fee' | 'trustgate anchor verify --rpc' | 'trustgate export receipts --since' | 'trustgate export receipts --until' | 'trustgate export usage --since' | 'trustgate export usage --until' | 'trustgate top --every' | 'trustgate notify add --command' | 'trustgate notify add --on' | 'trustgate notify add --name' | 'trustgate config show --host' | 'trustgate config show --port' | 'trustgate config show --store' | 'trustgate config show --workers' | 'trustgate config show --upstream' | 'trustgate config show --upstream-key-env' | 'trustgate archive --before' | 'trustgate archive --to' | 'trustgate migrate --to' | 'trustgate migrate --from' | 'trustgate localnet --host' | 'trustgate localnet --port' | 'trustgate localnet --slot-ms' | 'trustgate localnet --fund') kind=any ;;
        'trustgate connect --new-key' | 'trustgate budget add --tenant' | 'trustgate budget set --tenant' | 'trustgate passport resolve --tenant' | 'trustgate profile set --tenant' | 'trustgate profile show --tenant' | 'trustgate profile clear --tenant' | 'trustgate usage --tenant' | 'trustgate receipt list --tenant' | 'trustgate payment list --tenant' | 'trustgate export receipts --tenant' | 'trustgate export usage --tenant') kind=tenant ;;
        'trustgate connect --file' | 'trustgate passport add --credential-file' | 'trustgate passport set --credential-file' | 'trustgate passport import --prices' | 'trustgate usage --plot' | 'trustgate receipt export --output' | 'trustgate receipt export -o' | 'trustgate receipt verify --request' | 'trustgate receipt verify --response' | 'trustgate statement make --output' | 'trustgate statement make -o' | 'trustgate statement verify --previous' | 'trustgate payment keygen --keypair' | 'trustgate anchor flush --keypair' | 'trustgate anchor verify --keypair' | 'trustgate anchor keygen --keypair' | 'trustgate export receipts --output' | 'trustgate export receipts -o' | 'trustgate export usage --output' | 'trustgate export usage -o') kind=file ;;
        'trustgate tenant add --plan' | 'trustgate tenant set --plan' | 'trustgate tenant restore --plan' | 'trustgate plan add --like' | 'trustgate budget add --plan' | 'trustgate budget set --plan' | 'trustgate profile set --plan' | 'trustgate profile show --plan' | 'trustgate profile clear --plan') kind=plan ;;
        'trustgate tenant correct --for') kind=receipt ;;
        'trustgate key create --models' | 'trustgate key set --models' | 'trustgate plan add --models' | 'trustgate plan set --models' | 'trustgate budget add --models' | 'trustgate budget set --models' | 'trustgate passport add --fallback' | 'trustgate passport add --pool' | 'trustgate passport add --context-fallback' | 'trustgate passport set --fallback' | 'trustgate passport set --pool' | 'trustgate passport set --context-fallback' | 'trustgate receipt list --model') kind=passport ;;
        'trustgate plan add --on-disconnect' | 'trustgate plan set --on-disconnect') kind='words:abort drain' ;;
        'trustgate plan add --unpriced-models' | 'trustgate plan set --unpriced-models') kind='words:refuse allow' ;;
        'trustgate budget add --key' | 'trustgate budget set --key' | 'trustgate passport resolve --key' | 'trustgate profile set --key' | 'trustgate profile show --key' | 'trustgate profile clear --key' | 'trustgate receipt list --key') kind=key ;;
        'trustgate budget add --each' | 'trustgate budget set --each') kind='words:all tenant key end-user' ;;
        'trustgate end-user limit --budget') kind=budget ;;
        'trustgate passport add --format' | 'trustgate passport set --format') kind='words:api safetensors gguf' ;;
        'trustgate passport add --choice' | 'trustgate passport set --choice') kind='words:weighted least-busy tenant conversation' ;;
        'trustgate profile set --only-own-names') kind='words:yes no' ;;
        'trustgate profile set --unknown-models') kind='words:refuse default' ;;
        'trustgate usage --by') kind='words:day hour model key tenant end_user' ;;
        'trustgate receipt list --ended') kind='words:complete client_gone upstream_cut cut upstream_error refused credited' ;;
        'trustgate receipt export --disclose') kind='words:none request response both' ;;
        'trustgate statement make --format') kind='words:html pdf csv json' ;;
        'trustgate payment set --mode') kind='words:per-request prepaid' ;;
        'trustgate payment set --flow') kind='words:authorization upfront' ;;
        'trustgate anchor flush --commitment') kind='words:confirmed finalized' ;;
        'trustgate export receipts --format' | 'trustgate export usage --format') kind='words:jsonl csv parquet' ;;
        *) kind= ;;
    esac
}
__trustgate_argument() {
    case "$1 $2" in
        'trustgate connect 0') kind='words:codex claude-code opencode aider cline continue open-webui litellm openai anthropic langchain vercel-ai curl' ;;
        'trustgate tenant add 0' | 'trustgate plan add 0' | 'trustgate budget add 0' | 'trustgate end-user show 1' | 'trustgate end-user block 1' | 'trustgate end-user unblock 1' | 'trustgate end-user limit 1' | 'trustgate passport add 0' | 'trustgate passport resolve 0' | 'trustgate passport alias 0' | 'trustgate passport alias 1' | 'trustgate passport prices show 0' | 'trustgate payment show 0' | 'trustgate payment resolve 0' | 'trustgate notify add 0' | 'trustgate notify show 0' | 'trustgate notify remove 0' | 'trustgate notify test 0') kind=any ;;
        'trustgate tenant show 0' | 'trustgate tenant set 0' | 'trustgate tenant suspend 0' | 'trustgate tenant resume 0' | 'trustgate tenant remove 0' | 'trustgate tenant restore 0' | 'trustgate tenant credit 0' | 'trustgate tenant correct 0' | 'trustgate key create 0' | 'trustgate key list 0' | 'trustgate budget status 0' | 'trustgate end-user list 0' | 'trustgate end-user show 0' | 'trustgate end-user block 0' | 'trustgate end-user unblock 0' | 'trustgate end-user limit 0' | 'trustgate statement make 0' | 'trustgate statement list 0' | 'trustgate payment set 0' | 'trustgate payment off 0' | 'trustgate payment open 0' | 'trustgate payment close 0' | 'trustgate payment terms 0' | 'trustgate payment refund-credit 0') kind=tenant ;;
        'trustgate key show 0' | 'trustgate key set 0' | 'trustgate key revoke 0' | 'trustgate key rotate 0') kind=key ;;
        'trustgate plan set 0' | 'trustgate plan show 0' | 'trustgate plan remove 0') kind=plan ;;
        'trustgate budget set 0' | 'trustgate budget remove 0' | 'trustgate budget show 0') kind=budget ;;
        'trustgate passport set 0' | 'trustgate passport show 0' | 'trustgate passport deprecate 0' | 'trustgate passport revoke 0' | 'trustgate passport activate 0' | 'trustgate passport prices history 0') kind=passport ;;
        'trustgate passport import 0' | 'trustgate passport prices update 0' | 'trustgate receipt verify 0' | 'trustgate statement verify 0' | 'trustgate backup 0' | 'trustgate restore 0') kind=file ;;
        'trustgate receipt show 0' | 'trustgate receipt export 0') kind=receipt ;;
        *) kind= ;;
    esac
}

# What the words before the cursor mean: sets path, count (of arguments), flag (that waits for its value) and home.
__trustgate_walk() {
    local word
    path=trustgate count=0 flag= home=
    for word in "$@"; do
        if [[ -n $flag ]]; then
            [[ $flag = --home ]] && home=$word
            flag=
        elif [[ $word = --home=* ]]; then
            home=${word#*=}
        elif [[ $word = -*=* ]]; then
            :
        elif [[ $word = -* ]]; then
            __trustgate_value "$path" "$word"
            [[ -n $kind ]] && flag=$word
        else
            __trustgate_commands "$path"
            case " $names " in
                *" $word "*) path="$path $word" count=0 ;;
                *) count=$((count + 1)) ;;
            esac
        fi
    done
}

# Adds to COMPREPLY what begins with $1 among the lines of the standard input; a tab ends the word.
__trustgate_matching() {
    local line
    while IFS= read -r line; do
        line=${line%%$'\t'*}
        if [[ $line = "$1"* ]]; then
            COMPREPLY+=("$(printf '%q' "$line")")
        fi
    done
}

_trustgate() {
    # bash breaks words at : and = as well; what stands together is put together again.
    local words=() word broken= i
    for ((i = 1; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ ${#words[@]} -gt 0 && ($word = [:=] || -n $broken) ]]; then
            words[${#words[@]}-1]+=$word
        else
            words+=("$word")
        fi
        broken=
        [[ $word = [:=] && $COMP_WORDBREAKS = *$word* && $i -lt $COMP_CWORD ]] && broken=$word
    done
    local current=${words[${#words[@]}-1]} path count flag home kind names options
    unset "words[${#words[@]}-1]"
    __trustgate_walk "${words[@]}"
    local head= typed=$current
    if [[ -z $flag && $current = --*=* ]]; then
        flag=${current%%=*} head=$flag= typed=${current#*=}
    fi
    typed=${typed//\\/} typed=${typed#[\"\']}
    COMPREPLY=()
    if [[ -n $flag ]]; then
        __trustgate_value "$path" "$flag"
    elif [[ $current = -* ]]; then
        __trustgate_options "$path"
        __trustgate_matching "$typed" <<< "$options"
        return
    else
        __trustgate_commands "$path"
        if [[ -n $names ]]; then
            __trustgate_matching "$typed" <<< "${names// /$'\n'}"
            return
        fi
        __trustgate_argument "$path" "$count"
    fi
    case $kind in
        '' | any) ;;
        file) compopt -o filenames 2> /dev/null; COMPREPLY=($(compgen -f -- "$typed")) ;;
        folder) compopt -o filenames 2> /dev/null; COMPREPLY=($(compgen -d -- "$typed")) ;;
        words:*) kind=${kind#words:}; __trustgate_matching "$typed" <<< "${kind// /$'\n'}" ;;
        *)
            home=${home/#\~/$HOME}
            __trustgate_matching "$typed" \
                < <("${COMP_WORDS[0]/#\~/$HOME}" ${home:+--home "$home"} completion values "$kind" 2> /dev/null)
            ;;
    esac
    # What bash took for a word of its own ends at the last : or =, so an answer begins there.
    local whole=$head$typed cut
    if [[ $whole = *[:=]* && $COMP_WORDBREAKS = *:* ]]; then
        cut=${typed%"${typed##*[:=]}"}
        for ((i = 0; i < ${#COMPREPLY[@]}; i++)); do
            COMPREPLY[i]=${COMPREPLY[i]#"$cut"}
        done
    fi
}

complete -F _trustgate trustgate
