%% SPDX-License-Identifier: Apache-2.0

%% @private Ranch listeners in the tree of the process that opens them, and not in Ranch's own: that
%% bears one crash in five seconds, of all listeners of the node, and takes them all with it.
%%
%% The caller is linked to what it has opened: its sockets and connections end with it, however it
%% ends, and it gets an exit signal where Ranch gives up on them.
-module(hornbeam_sockets).

%% API
-export([watch_ranch/0]).
-export([open/2]).
-export([suspend/1]).
-export([stop/2]).
-export([take_over/1]).

-include_lib("kernel/include/logger.hrl").

%% Poll for Ranch to have noticed that a listener is gone, and how often at most.
-define(POLL_MS, 5).
-define(MAX_POLLS, 1000).

%% @doc Have `{ranch_down, _, process, _, Reason}' sent to the caller when Ranch ends. Where it has
%% ended it is started: without its table no socket can be opened, and nobody else would do that.
%%
%% Not by the caller, who may have to wait for ever: if our own application is just being stopped,
%% that waits for the caller, and applications start one after the other.
-spec watch_ranch() -> ok.
watch_ranch() ->
    _ = is_ranch_there() orelse spawn(fun() -> application:ensure_all_started(ranch) end),
    await_ranch(?MAX_POLLS),
    _ = monitor(process, ranch_sup, [{tag, ranch_down}]),
    ok.

%% @doc Listen. The port stays the same whatever crashes below the supervisor that is returned.
-spec open(ranch:ref(), ranch:transport_opts(any())) -> {ok, pid()} | {error, term()}.
open(Ref, TransportOpts) ->
    await_forgotten(Ref, ?MAX_POLLS),
    ok = ranch_server:cleanup_listener_opts(Ref),
    #{start := {_, Function, Args}} =
        ranch:child_spec(Ref, ranch_tcp, TransportOpts, hornbeam_connection,
                         #{hornbeam_listener => self()}),
    %% Without the supervisor that this child would have: it starts with the first options again when
    %% Ranch has forgotten those of the moment, and without a word.
    case apply(ranch_listener_sup, Function, Args) of
        {ok, Sup} ->
            keep_port(ranch:get_addr(Ref), Ref, TransportOpts),
            {ok, Sup};
        {error, Reason} ->
            {error, listen_error(Reason)}
    end.

%% @doc Close the listening socket; connections stay.
-spec suspend(ranch:ref()) -> ok.
suspend(Ref) ->
    try ranch:suspend_listener(Ref) of
        _ -> keep_others_file(Ref)
    catch
        %% Ranch has just given up on it, or is not there.
        error:badarg -> ok;
        exit:_ -> ok
    end.

%% @doc End what is left, connections too. By the process that has opened it.
-spec stop(ranch:ref(), pid()) -> ok.
stop(Ref, Sup) ->
    Monitor = monitor(process, Sup),
    exit(Sup, shutdown),
    %% No timeout: all that is below is killed.
    receive {'DOWN', Monitor, process, _, _} -> ok end,
    receive {'EXIT', Sup, _} -> ok after 0 -> ok end,
    await_forgotten(Ref, ?MAX_POLLS).

%% @doc End what a predecessor has opened that may still be draining, or has just been killed.
%%
%% When the supervisor of a server was killed nobody waits for its children's end; at that they would
%% close what carries the same name, which is ours by then.
-spec take_over(hornbeam:name()) -> ok.
take_over(Name) ->
    Refs = [Ref || {{hornbeam, Owner, _} = Ref, _} <- listener_sups(),
                   Owner =:= Name],
    lists:foreach(fun end_predecessor/1, Refs).

%%% Internal

%% Its end takes long enough for its name to be there while its table is not.
is_ranch_there() ->
    is_pid(whereis(ranch_server)) andalso ets:info(ranch_server, size) =/= undefined.

%% If it does not come, whoever opens a socket fails, and its supervisor tries again.
await_ranch(0) ->
    ok;
await_ranch(Polls) ->
    case is_ranch_there() of
        true ->
            ok;
        false ->
            receive after ?POLL_MS -> ok end,
            await_ranch(Polls - 1)
    end.

listener_sups() ->
    try ranch_server:get_listener_sups()
    %% Ranch has ended, and knows of none.
    catch error:badarg -> []
    end.

end_predecessor(Ref) ->
    try ranch:get_protocol_options(Ref) of
        #{hornbeam_listener := Predecessor} ->
            exit(Predecessor, kill),
            await_forgotten(Ref, ?MAX_POLLS)
    catch
        %% It has gone meanwhile.
        error:badarg -> ok
    end.

%% Ranch forgets the options of a listener when it learns of its end: those of a successor that has
%% come before that would be forgotten.
await_forgotten(Ref, 0) ->
    ?LOG_WARNING(#{what => predecessor_listens, ref => Ref});
await_forgotten(Ref, Polls) ->
    case lists:keymember(Ref, 1, listener_sups()) of
        true ->
            receive after ?POLL_MS -> ok end,
            await_forgotten(Ref, Polls - 1);
        false ->
            ok
    end.

%% Ranch would ask the system for another port when it listens again.
keep_port({Ip, Port}, Ref, TransportOpts = #{socket_opts := SocketOpts})
        when is_tuple(Ip), is_integer(Port) ->
    Kept = lists:keystore(port, 1, SocketOpts, {port, Port}),
    ok = ranch:set_transport_options(Ref, TransportOpts#{socket_opts => Kept});
keep_port(_, _, _) ->
    ok.

%% At its end Ranch would delete what is at the path by then. Without options it does not know the
%% path.
keep_others_file(Ref) ->
    Opts = ranch:get_transport_options(Ref),
    ok = ranch:set_transport_options(Ref, Opts#{socket_opts => []}).

%% What a socket has said is at the bottom of what its supervisors have said.
listen_error({listen_error, _, Reason}) -> Reason;
listen_error({shutdown, {failed_to_start_child, _, Reason}}) -> listen_error(Reason);
listen_error({Reason, _Stack}) when is_tuple(Reason) -> listen_error(Reason);
listen_error(Reason) -> Reason.
