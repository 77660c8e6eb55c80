%% SPDX-License-Identifier: Apache-2.0

%% @private Writes to a worker's port.
%%
%% A process of its own, apart from the port's owner, because `port_command/2' suspends its caller
%% while the pipe is full: a worker that does not read must not keep the owner from reading what
%% the worker says, nor from noticing that its heartbeats are missing. What waits in this process's
%% mailbox is bounded by the requests that the pool lets into the worker and by their windows; what
%% comes without being asked for, the messages of topics, is bounded by {@link offer/3}.
%%
%% Whatever has gathered in the mailbox while one write went on becomes the next packet, so that
%% under load one system call carries many messages, and without load none waits.
-module(hornbeam_writer).

%% API
-export([start_link/1]).
-export([send/2]).
-export([say/2]).
-export([new_backlog/0]).
-export([offer/3]).
-export([is_drained/1]).

%% internal
-export([init/1]).

%% Bounds of one packet; more than that gains nothing and delays the first message of the batch.
-define(MAX_BATCH_MESSAGES, 128).
-define(MAX_BATCH_BYTES, 262144).

%% What may wait of topics' messages, and what each counts beside its bytes.
-define(MAX_BACKLOG_BYTES, 16777216).
-define(OFFER_BYTES, 128).

-opaque backlog() :: atomics:atomics_ref().
%% How many bytes of what was offered wait to be written.

-export_type([backlog/0]).

%% @doc Start a writer for `Port', linked to the caller, who owns the port.
-spec start_link(port()) -> pid().
start_link(Port) ->
    proc_lib:spawn_link(?MODULE, init, [Port]).

%% @doc Queue one encoded message; never blocks, never fails.
-spec send(pid(), hornbeam_protocol:encoded()) -> ok.
send(Writer, Encoded) ->
    Writer ! {send, Encoded},
    ok.

%% @doc Encode a message and queue it; as send/2.
-spec say(pid(), hornbeam_protocol:to_worker()) -> ok.
say(Writer, Message) ->
    send(Writer, hornbeam_protocol:encode(Message)).

-spec new_backlog() -> backlog().
new_backlog() ->
    atomics:new(1, [{signed, true}]).

%% @doc Queue one encoded message unless too much waits already.
-spec offer(pid(), backlog(), hornbeam_protocol:encoded()) -> ok | full.
offer(Writer, Backlog, Encoded) ->
    Bytes = iolist_size(Encoded) + ?OFFER_BYTES,
    case atomics:get(Backlog, 1) + Bytes =< ?MAX_BACKLOG_BYTES of
        true ->
            ok = atomics:add(Backlog, 1, Bytes),
            Writer ! {offer, Encoded, Backlog},
            ok;
        false ->
            full
    end.

%% @doc Whether there is room again for more than a few.
-spec is_drained(backlog()) -> boolean().
is_drained(Backlog) ->
    atomics:get(Backlog, 1) =< ?MAX_BACKLOG_BYTES div 2.

-spec init(port()) -> no_return().
init(Port) ->
    process_flag(message_queue_data, off_heap),
    loop(Port).

loop(Port) ->
    receive
        {send, Encoded} ->
            Messages = gather([Encoded], 1, iolist_size(Encoded)),
            write(Port, hornbeam_protocol:batch(Messages));
        {offer, Encoded, Backlog} ->
            Messages = gather([take(Encoded, Backlog)], 1, iolist_size(Encoded)),
            write(Port, hornbeam_protocol:batch(Messages))
        %% No timeout: the link ends this process with the port's owner.
    end,
    loop(Port).

gather(Messages, Count, Bytes) when Count < ?MAX_BATCH_MESSAGES, Bytes < ?MAX_BATCH_BYTES ->
    receive
        {send, Encoded} ->
            gather([Encoded | Messages], Count + 1, Bytes + iolist_size(Encoded));
        {offer, Encoded, Backlog} ->
            gather([take(Encoded, Backlog) | Messages], Count + 1, Bytes + iolist_size(Encoded))
    after 0 ->
        lists:reverse(Messages)
    end;
gather(Messages, _, _) ->
    lists:reverse(Messages).

%% What is in the packet that is about to be written waits no more.
take(Encoded, Backlog) ->
    ok = atomics:sub(Backlog, 1, iolist_size(Encoded) + ?OFFER_BYTES),
    Encoded.

write(Port, Packet) ->
    try port_command(Port, Packet) of
        true -> ok
    catch
        %% The port has closed; its owner knows why and is on its way out.
        error:badarg -> exit(normal)
    end.
