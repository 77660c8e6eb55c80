%% SPDX-License-Identifier: Apache-2.0
%% Nodes of their own for a suite: connected to each other over loopback, and steered over their
%% standard input and output, so that the node of the suite takes no part in it.
-module(hornbeam_test_cluster).

-export([start/1]).
-export([stop/1]).
-export([node_of/1]).
-export([call/4]).
-export([run/2]).

-include_lib("stdlib/include/assert.hrl").

%% So many connected nodes that run the application `hornbeam'.
start(Count) ->
    EpmdPort = integer_to_list(free_port()),
    Peers = [start_peer(EpmdPort) || _ <- lists:seq(1, Count)],
    [{ok, _} = call(Peer, application, ensure_all_started, [hornbeam]) || Peer <- Peers],
    [pong = call(Peer, net_adm, ping, [node_of(Other)]) || Peer <- Peers, Other <- Peers],
    {EpmdPort, Peers}.

%% The nodes, and the port mapper that the first of them has started.
stop({EpmdPort, Peers}) ->
    [catch peer:stop(Pid) || {Pid, _} <- Peers],
    Kill = fun() -> os:cmd("ERL_EPMD_PORT=" ++ EpmdPort ++ " epmd -kill") end,
    hornbeam_test_wait:until(fun() -> string:find(Kill(), "Killed") =/= nomatch end),
    ok.

node_of({_, Node}) ->
    Node.

call({Pid, _}, Module, Function, Args) ->
    peer:call(Pid, Module, Function, Args).

%% What a fun of a module that the nodes have gives there.
run(Peer, Fun) ->
    call(Peer, erlang, apply, [Fun, []]).

start_peer(EpmdPort) ->
    {ok, Pid, Node} = peer:start(#{
        name => peer:random_name(),
        host => "127.0.0.1",
        longnames => true,
        connection => standard_io,
        env => [{"ERL_EPMD_PORT", EpmdPort}, {"ERL_EPMD_ADDRESS", "127.0.0.1"}],
        args => ["-setcookie", "hornbeam_test", "-kernel", "inet_dist_use_interface",
                 "{127,0,0,1}", "-pa" | code:get_path()]
    }),
    {Pid, Node}.

free_port() ->
    {ok, Socket} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Socket),
    ok = gen_tcp:close(Socket),
    Port.
