%% SPDX-License-Identifier: Apache-2.0

%% @private The fan-out of one node to that of the others: who has how many sessions attached to
%% what, and what is published for them.
%%
%% One process on each node. They greet each other when nodes connect; each greeting is answered
%% with all the counts of the node, and after it every change is told. Changes that come while
%% others are being told go together. What is published is sent here by the publisher itself, and
%% handed to this node's {@link hornbeam_fanout} in its order.
-module(hornbeam_fanout_peers).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([start_link/0]).
-export([changed/1]).
-export([publish/3]).

%% gen_server
-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).

-record(state, {
    %% The process of each connected node that has one, and its monitor.
    peers = #{} :: #{hornbeam_fanout_counts:peer() => reference()},
    %% What has changed on this node and was not told yet.
    changed = #{} :: #{hornbeam_topic:subject() => []}
}).

%%% API

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc The count of this node for the subject is another one now, as the table has it.
-spec changed(hornbeam_topic:subject()) -> ok.
changed(Subject) ->
    %% A node that connects after this gets what the table has then.
    _ = nodes() =/= [] andalso gen_server:cast(?MODULE, {changed, Subject}),
    ok.

%% @doc Send a frame to the sessions of another node.
-spec publish(hornbeam_fanout_counts:peer(), [hornbeam_topic:subject()], Frame :: binary()) -> ok.
publish(Peer, Subjects, Frame) ->
    Peer ! {publish, Subjects, Frame},
    ok.

%%% gen_server

-spec init([]) -> {ok, #state{}}.
init([]) ->
    %% What an earlier process of this name knew of the others has to be learnt anew.
    lists:foreach(fun hornbeam_fanout_counts:remove_peer/1, hornbeam_fanout_counts:peers()),
    ok = net_kernel:monitor_nodes(true),
    lists:foreach(fun greet/1, nodes()),
    {ok, #state{}}.

-spec handle_call(term(), gen_server:from(), #state{}) -> no_return().
handle_call(Request, _From, _State) ->
    error({unknown_call, Request}).

-spec handle_cast({changed, hornbeam_topic:subject()}, #state{}) -> {noreply, #state{}}.
handle_cast({changed, Subject}, State = #state{changed = Changed}) ->
    %% Told when all that is in the mailbox by now has been taken.
    _ = map_size(Changed) =:= 0 andalso (self() ! tell),
    {noreply, State#state{changed = Changed#{Subject => []}}}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({publish, Subjects, Frame}, State) ->
    ok = hornbeam_fanout:hand_out(Subjects, Frame),
    {noreply, State};
handle_info(tell, State = #state{peers = Peers, changed = Changed}) ->
    Counts = [{Subject, hornbeam_fanout_counts:local(Subject)} || Subject <- maps:keys(Changed)],
    lists:foreach(fun(Peer) -> Peer ! {counts, self(), Counts} end, maps:keys(Peers)),
    {noreply, State#state{changed = #{}}};
handle_info({counts, Peer, Counts}, State = #state{peers = Peers}) ->
    %% One that is not known has gone, and its counts with it.
    _ = is_map_key(Peer, Peers) andalso set(Peer, Counts),
    {noreply, State};
handle_info({greeting, Peer}, State = #state{peers = Peers}) when is_map_key(Peer, Peers) ->
    {noreply, State};
handle_info({greeting, Peer}, State = #state{peers = Peers}) ->
    Monitor = monitor(process, Peer),
    Peer ! {greeting, self()},
    Peer ! {counts, self(), hornbeam_fanout_counts:local()},
    {noreply, State#state{peers = Peers#{Peer => Monitor}}};
handle_info({'DOWN', _, process, Peer, _}, State = #state{peers = Peers}) ->
    ok = hornbeam_fanout_counts:remove_peer(Peer),
    {noreply, State#state{peers = maps:remove(Peer, Peers)}};
handle_info({nodeup, Node}, State) ->
    greet(Node),
    {noreply, State};
handle_info({nodedown, _}, State) ->
    {noreply, State};
handle_info(Message, State) ->
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    {noreply, State}.

%%% Internal

%% A node without this process does not answer.
greet(Node) ->
    _ = erlang:send({?MODULE, Node}, {greeting, self()}, [noconnect]),
    ok.

set(Peer, Counts) ->
    lists:foreach(fun({Subject, Count}) ->
        hornbeam_fanout_counts:set_remote(Peer, Subject, Count)
    end, Counts).
