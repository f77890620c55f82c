"""Carrying out commands in this process: the server, or, when none runs, the command line.

Owns the table that leads from a command to its handler, and the lock that lets one change happen at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from trustgate.access.directory import Directory
from trustgate.admin import (
    anchors,
    archiving,
    backup,
    books,
    budgeting,
    budgets,
    clustering,
    commands,
    console,
    consoling,
    correcting,
    crediting,
    end_users,
    exports,
    keyless,
    keys,
    log_commands,
    model_commands,
    models,
    money,
    notify,
    payment_checks,
    payment_facts,
    payment_terms,
    payments,
    plans,
    prices,
    profiles,
    profiling,
    statements,
    subscriptions,
    tenants,
)
from trustgate.admin.commands import Command, Feed, Write
from trustgate.admin.context import AdminContext, OtherProcesses
from trustgate.admin.ownership import leave_to_owner
from trustgate.models.catalog import Catalog
from trustgate.notify.subscribers import Subscribers
from trustgate.settings import Settings
from trustgate.solana.anchoring import Anchoring
from trustgate.store import Store, open_store

if TYPE_CHECKING:
    from trustgate.payment.balance import Balances
    from trustgate.payment.service import PaymentService
    from trustgate.receipts.archive import Archive
    from trustgate.receipts.journal import Journal
    from trustgate.receipts.log import Log
    from trustgate.receipts.tree import Tree

R = TypeVar("R")

Handler = Callable[[AdminContext, Any], Awaitable[Any]]
FeedHandler = Callable[[AdminContext, Any, Write], Awaitable[Any]]

_HANDLERS: dict[type[Command[Any]], Handler] = {
    commands.TenantAdd: tenants.tenant_add,
    commands.TenantList: tenants.tenant_list,
    commands.TenantShow: tenants.tenant_show,
    commands.TenantSet: tenants.tenant_set,
    commands.TenantSuspend: tenants.tenant_suspend,
    commands.TenantResume: tenants.tenant_resume,
    commands.TenantRemove: tenants.tenant_remove,
    commands.TenantRestore: tenants.tenant_restore,
    commands.KeyCreate: keys.key_create,
    commands.KeyList: keys.key_list,
    commands.KeyShow: keys.key_show,
    commands.KeySet: keys.key_set,
    commands.KeyRevoke: keys.key_revoke,
    commands.KeyRotate: keys.key_rotate,
    commands.PlanPut: plans.plan_put,
    money.PriceCheck: prices.price_check,
    money.PriceShow: prices.price_show,
    money.PriceHistory: prices.price_history,
    money.PriceListUpdate: prices.price_list_update,
    commands.PlanList: plans.plan_list,
    commands.PlanShow: plans.plan_show,
    commands.PlanRemove: plans.plan_remove,
    model_commands.PassportAdd: models.passport_add,
    model_commands.PassportSet: models.passport_set,
    model_commands.PassportList: models.passport_list,
    model_commands.PassportShow: models.passport_show,
    model_commands.PassportStatus: models.passport_status,
    model_commands.PassportImport: models.passport_import,
    profiling.PassportResolve: profiles.passport_resolve,
    profiling.ProfilePut: profiles.profile_put,
    profiling.ProfileShow: profiles.profile_show,
    profiling.ProfileClear: profiles.profile_clear,
    profiling.ProfileList: profiles.profile_list,
    model_commands.AliasSet: models.alias_set,
    model_commands.AliasList: models.alias_list,
    model_commands.AliasRemove: models.alias_remove,
    budgeting.BudgetPut: budgets.budget_put,
    budgeting.BudgetRemove: budgets.budget_remove,
    budgeting.BudgetNames: budgets.budget_names,
    budgeting.BudgetList: budgets.budget_list,
    budgeting.EndUserList: end_users.end_user_list,
    budgeting.EndUserShow: end_users.end_user_show,
    budgeting.EndUserSet: end_users.end_user_set,
    log_commands.UsageShow: books.usage_show,
    log_commands.ReceiptList: books.receipt_list,
    log_commands.ReceiptShow: books.receipt_show,
    log_commands.ReceiptExport: books.receipt_export,
    log_commands.ReceiptMend: books.receipt_mend,
    log_commands.AnchorFlush: anchors.anchor_flush,
    log_commands.AnchorList: anchors.anchor_list,
    log_commands.AnchorStatus: anchors.anchor_status,
    log_commands.AnchorVerify: anchors.anchor_verify,
    log_commands.AnchorKeygen: anchors.anchor_keygen,
    money.PaymentOpen: keyless.payment_open,
    money.PaymentClose: keyless.payment_close,
    money.PaymentSet: payment_terms.payment_set,
    money.PaymentOff: payment_terms.payment_off,
    money.PaymentTermsList: payment_terms.payment_terms,
    money.PaymentLookAgain: payment_facts.payment_look_again,
    money.PaymentFollow: payment_facts.payment_follow,
    money.PaymentList: payments.payment_list,
    money.PaymentShow: payments.payment_show,
    money.PaymentReconcile: payments.payment_reconcile,
    money.PaymentResolve: payments.payment_resolve,
    money.PaymentRefundCredit: payments.payment_refund_credit,
    money.PaymentKeygen: payment_terms.payment_keygen,
    money.PaymentCheck: payment_checks.payment_check,
    money.TenantCredit: crediting.tenant_credit,
    money.TenantCorrect: correcting.tenant_correct,
    money.BooksAudit: books.books_audit,
    clustering.NodeList: clustering.node_list,
    log_commands.ArchiveReceipts: archiving.archive_receipts,
    log_commands.ArchiveList: archiving.archive_list,
    money.StatementMonths: statements.statement_months,
    subscriptions.NotifyAdd: notify.notify_add,
    subscriptions.NotifyList: notify.notify_list,
    subscriptions.NotifyShow: notify.notify_show,
    subscriptions.NotifyRemove: notify.notify_remove,
    subscriptions.NotifyTest: notify.notify_test,
    consoling.ConsoleOpen: console.console_open,
    consoling.ConsoleEnd: console.console_end,
    log_commands.Compact: backup.compact,
    commands.Reload: books.reload,
    commands.Look: books.look,
    commands.Status: books.status,
}

_FEEDS: dict[type[Feed[Any]], FeedHandler] = {
    log_commands.Backup: backup.backup,
    log_commands.ReceiptsExport: exports.receipts_export,
    log_commands.UsageExport: exports.usage_export,
    money.StatementExport: statements.statement_export,
}

#: Every command, for decoding one by its tag.
COMMANDS: tuple[type[Command[Any]], ...] = tuple(_HANDLERS)
FEEDS: tuple[type[Feed[Any]], ...] = tuple(_FEEDS)


#: Commands that only read the books, or wait for a chain, which can take seconds: a revocation does not wait for them.
_UNLOCKED = frozenset(
    {
        clustering.NodeList,
        budgeting.BudgetList,
        budgeting.EndUserList,
        budgeting.EndUserShow,
        log_commands.UsageShow,
        log_commands.ReceiptList,
        log_commands.ReceiptShow,
        log_commands.ReceiptExport,
        log_commands.AnchorFlush,
        log_commands.AnchorList,
        log_commands.AnchorStatus,
        log_commands.AnchorVerify,
        money.PaymentTermsList,
        money.PaymentLookAgain,
        money.PaymentList,
        money.PaymentShow,
        money.PaymentReconcile,
        money.PaymentCheck,
        money.BooksAudit,
        log_commands.ArchiveReceipts,
        log_commands.ArchiveList,
        money.StatementMonths,
        subscriptions.NotifyList,
        subscriptions.NotifyShow,
        subscriptions.NotifyTest,
        consoling.ConsoleOpen,
        consoling.ConsoleEnd,
        log_commands.Compact,
        commands.Look,
        commands.Reload,
        commands.Status,
    }
)


class LocalAdmin:
    """``Admin`` over a context. Closing it closes the context and its store."""

    def __init__(self, context: AdminContext) -> None:
        self._context = context
        self._one_at_a_time = asyncio.Lock()
        #: Commands at work: the event loop itself holds tasks only weakly.
        self._tasks: set[asyncio.Task[Any]] = set()

    def join(self, others: OtherProcesses) -> None:
        """Other processes serve the database, too, from now on."""
        self._context.others = others

    async def execute(self, command: Command[R]) -> R:
        """See ``Admin``. A command that has begun is carried out to its end, even if its caller goes away.

        Otherwise a change could be durable and yet unknown to the request path.
        """
        task = asyncio.ensure_future(self._carry_out(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _carry_out(self, command: Command[R]) -> R:
        handler = _HANDLERS[type(command)]
        if type(command) in _UNLOCKED:
            unlocked: R = await handler(self._context, command)
            return unlocked
        others = self._context.others
        async with self._one_at_a_time, contextlib.nullcontext() if others is None else others.exclusive():
            result: R = await handler(self._context, command)
            return result

    async def feed(self, command: Feed[R], write: Write) -> R:
        """See ``Admin``. It changes nothing, so it ends where its caller goes away."""
        result: R = await _FEEDS[type(command)](self._context, command, write)
        return result

    async def settle(self) -> None:
        """Let the commands that have begun come to their end; what takes long is broken off."""
        await self._context.end()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        await self.settle()
        try:
            await self._context.close()
        finally:
            leave_to_owner(self._context.settings.home)


async def open_local_admin(settings: Settings, *, accept_loss: bool = False, is_copy: bool = False) -> LocalAdmin:
    """Open the database in this process, making it where there is none.

    ``accept_loss`` and ``is_copy`` are ``open_store``'s.

    Raises ``StoreLocked`` when another process has it, and what ``open_store`` raises.
    """
    settings.make_home()
    store = await open_store(settings.database, settings.postgres(), accept_loss=accept_loss, is_copy=is_copy)
    try:
        await clustering.check_alone(settings)
        await clustering.place_waiting(settings, store)
        state = await store.load_state()
        offline = _Offline(store, settings)
        return LocalAdmin(
            AdminContext(
                store,
                Directory(state),
                Catalog(state.passports, state.aliases, state.price_lists, settings.upstream.url),
                books=offline,
                anchoring=Anchoring(settings, store, offline.archive),
                settings=settings,
                subscribers=Subscribers(state.subscribers),
            )
        )
    except BaseException:
        await store.close()
        raise


class _Offline:
    """The books when no server runs: what a killed one left in its journal belongs in them before the first read.

    What a command appends goes the server's way: into the journal, from there into the store. A journal is made only
    where something is to be appended.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._tree: Tree | None = None
        self._journal: Journal | None = None
        self._log: Log | None = None
        self._archive: Archive | None = None
        self._payment_service: PaymentService | None = None
        self._opening = asyncio.Lock()

    async def flush(self) -> None:
        async with self._opening:
            await self._recovered()

    async def tree(self) -> Tree:
        async with self._opening:
            return await self._recovered()

    async def archive(self) -> Archive:
        async with self._opening:
            return await self._checked()

    async def _checked(self) -> Archive:
        """Returns the log, held against what it has signed and anchored. Raises ``StoreDamaged`` as a start does."""
        from trustgate.receipts.archive import Archive
        from trustgate.receipts.publisher import Publisher

        tree = await self._recovered()
        if self._archive is None:
            settings = self._settings
            if settings.store.url:
                await clustering.check_log_key(settings, self._store)
            publisher = await Publisher.open(
                self._store,
                tree,
                key_file=settings.log_key,
                checkpoint_file=settings.checkpoint,
                origin=settings.receipts.origin,
            )
            self._archive = Archive(self._store, tree, publisher)
        return self._archive

    async def payment_service(self) -> PaymentService:
        from trustgate.payment.service import PaymentService

        async with self._opening:
            if self._payment_service is None:
                # Nothing is appended to a log that a server would refuse.
                await self._checked()
                tree = await self._recovered()
                log = self._log or await self._open_log(tree)
                self._payment_service = await PaymentService.open(self._settings, self._store, log)
                # What a killed server left settled may have got a receipt now.
                await log.flush()
            return self._payment_service

    async def refresh_counts(self) -> None:
        """Nothing: no process counts anything."""

    async def counted(self, directory: Directory) -> None:
        """Returns None: no process counts anything."""

    async def balances(self) -> Balances:
        from trustgate.payment.balance import Balances

        await self.flush()
        return Balances(await self._store.balances())

    async def close(self) -> None:
        async with self._opening:
            if self._payment_service is not None:
                await self._payment_service.close()
            if self._log is not None:
                await self._log.flush()
            if self._journal is not None:
                self._journal.close()

    async def _recovered(self) -> Tree:
        """Returns the tree, with what the journal holds beyond the store, and what commands have appended."""
        from trustgate.receipts.tree import Tree

        if self._tree is None:
            tree = await Tree.open(self._store)
            if self._settings.journal_folder.is_dir() or await self._lacks_drafts():
                await self._open_log(tree)
            self._tree = tree
        if self._log is not None:
            await self._log.flush()
        return self._tree

    async def _lacks_drafts(self) -> bool:
        """Returns whether processes that served among several have left receipts in their journals alone."""
        return bool(self._settings.store.url) and await clustering.left_drafts(self._settings, self._store) is not None

    async def _open_log(self, tree: Tree) -> Log:
        from trustgate.receipts.diverged import append_diverged, set_aside_diverged
        from trustgate.receipts.journal import Journal
        from trustgate.receipts.log import Log

        is_shared = bool(self._settings.store.url)
        if is_shared:
            await set_aside_diverged(self._settings.journal_folder, self._store)
        journal = Journal.open(
            self._settings.journal_folder,
            store_id=self._store.store_id,
            last_seq=await self._store.last_seq(),
            segment_bytes=self._settings.journal.segment_bytes,
        )
        try:
            self._log = await Log.recover(self._store, journal, tree)
            if is_shared:
                await append_diverged(self._settings.journal_folder, self._store, self._log)
                await clustering.take_in_drafts(self._settings, self._store, self._log, keeps_journals=True)
        except BaseException:
            journal.close()
            raise
        self._journal = journal
        return self._log
